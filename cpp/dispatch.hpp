// Which instruction sets this build has and this machine runs, and what the machine allows.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace stride {

// Best first; the last is the portable one.
std::vector<const Kernels*> available_kernels();

// What the compiler calls itself.
std::string compiler();

// Bytes per second of `n_threads` threads reading n_bytes of memory, the best of some passes of a third of a second.
double read_bandwidth(int64_t n_bytes, int n_threads);

// Multiply-adds per second of int8 that `n_threads` threads do in registers, likewise.
double integer_peak(const Kernels& kernels, int n_threads);

}  // namespace stride
