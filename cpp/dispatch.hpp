// Which instruction sets this build has and this machine runs.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace stride {

// Best first; the last is the portable one.
std::vector<const Kernels*> available_kernels();

// What the compiler calls itself.
std::string compiler();

}  // namespace stride
