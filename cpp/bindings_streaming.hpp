#pragma once

#include <nanobind/nanobind.h>

#include "engine.hpp"

namespace stride {

// Adds what is about experts on disk to the module and to its Engine.
void bind_streaming(nanobind::module_& m, nanobind::class_<Engine>& engine);

}  // namespace stride
