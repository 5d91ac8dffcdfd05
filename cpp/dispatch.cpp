#include "dispatch.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "memory.hpp"
#include "thread_pool.hpp"

namespace stride {

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> kernels;
#ifdef STRIDE_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni"))
        kernels.push_back(kernels_avx512());
    if (avx2) kernels.push_back(kernels_avx2());
#endif
    kernels.push_back(kernels_portable());
    return kernels;
}

std::string compiler() {
#ifdef __clang__
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}

double read_bandwidth(int64_t n_bytes, int n_threads) {
    using Clock = std::chrono::steady_clock;
    constexpr int64_t chunk = 4 << 20;
    const int64_t n_chunks = std::max<int64_t>(n_threads, n_bytes / chunk);
    const Region region(static_cast<size_t>(n_chunks * chunk), true);
    ThreadPool pool(n_threads);
    pool.run(n_chunks, [&](int64_t i, int) { std::memset(region.data() + i * chunk, 1, chunk); });

    std::atomic<uint64_t> total{0};  // keeps the reads from being optimised away
    double best = 0;
    const auto start = Clock::now();
    do {
        const auto begin = Clock::now();
        pool.run(n_chunks, [&](int64_t i, int) {
            const auto* words = reinterpret_cast<const uint64_t*>(region.data() + i * chunk);
            uint64_t sums[8] = {};
            for (int64_t w = 0; w < chunk / 8; w += 8)
                for (int j = 0; j < 8; ++j) sums[j] += words[w + j];
            for (const uint64_t sum : sums) total += sum;
        });
        const std::chrono::duration<double> seconds = Clock::now() - begin;
        best = std::max(best, static_cast<double>(n_chunks * chunk) / seconds.count());
    } while (Clock::now() - start < std::chrono::milliseconds(300));
    return best;
}

}  // namespace stride
