// What the machine allows: how fast memory is read, and int8 multiplied.
#pragma once

#include <cstdint>

#include "kernels.hpp"
#include "thread_pool.hpp"

namespace stride {

// Reads whole lines of 64 bytes on all threads, as fast as can be; the sum of their 64-bit words.
uint64_t read_through(ThreadPool& pool, const uint8_t* bytes, int64_t n_bytes);

// Bytes per second of `n_threads` threads reading n_bytes of memory, the best pass of a third of a second.
double read_bandwidth(int64_t n_bytes, int n_threads);

// Multiply-adds per second of int8 that `n_threads` threads do in registers, likewise.
double integer_peak(const Kernels& kernels, int n_threads);

}  // namespace stride
