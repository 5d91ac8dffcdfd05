#include "dispatch.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "memory.hpp"
#include "thread_pool.hpp"

#ifdef STRIDE_X86
#include <cpuid.h>
#endif

namespace stride {

namespace {

#ifdef STRIDE_X86
bool all_set(unsigned bits, std::initializer_list<int> wanted) {
    return std::all_of(wanted.begin(), wanted.end(), [bits](int bit) { return (bits >> bit & 1) != 0; });
}

struct Features {
    bool avx2 = false, avxvnni = false, avx512 = false;  // with what their kernels use besides

    // By hand: not every compiler's run-time library fills in what __builtin_cpu_supports() reads.
    Features() {
        unsigned a, b, c, d;
        if (!__get_cpuid(1, &a, &b, &c, &d)) return;
        constexpr int fma = 12, osxsave = 27, avx = 28, f16c = 29;
        if (!all_set(c, {fma, osxsave, avx, f16c})) return;
        unsigned saved, unused;  // the registers that the system saves
        asm volatile("xgetbv" : "=a"(saved), "=d"(unused) : "c"(0));
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        constexpr int avx2_bit = 5, avx512f = 16, avx512dq = 17, avx512bw = 30, avx512vl = 31, vnni = 11;
        avx2 = all_set(saved, {1, 2}) && all_set(b, {avx2_bit});
        avx512 = avx2 && all_set(saved, {5, 6, 7}) && all_set(b, {avx512f, avx512dq, avx512bw, avx512vl}) &&
                 all_set(c, {vnni});
        constexpr int avxvnni_bit = 4;
        avxvnni = avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && all_set(a, {avxvnni_bit});
    }
};
#endif

}  // namespace

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> kernels;
#ifdef STRIDE_X86
    const Features features;
    if (features.avx512) kernels.push_back(kernels_avx512());
    if (features.avxvnni) kernels.push_back(kernels_avxvnni());
    if (features.avx2) kernels.push_back(kernels_avx2());
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

namespace {

// The best of passes of `pass`, which gives what it has done, for about `milliseconds`: what is done per second.
template <class Pass>
double best_rate(int milliseconds, const Pass& pass) {
    using Clock = std::chrono::steady_clock;
    double best = 0;
    const auto start = Clock::now();
    do {
        const auto begin = Clock::now();
        const double done = pass();
        const std::chrono::duration<double> seconds = Clock::now() - begin;
        best = std::max(best, done / seconds.count());
    } while (Clock::now() - start < std::chrono::milliseconds(milliseconds));
    return best;
}

}  // namespace

double read_bandwidth(int64_t n_bytes, int n_threads) {
    constexpr int64_t chunk = 4 << 20, line = 64, ahead = 6144;
    const int64_t n_chunks = std::max<int64_t>(n_threads, n_bytes / chunk);
    const Region region(static_cast<size_t>(n_chunks * chunk + ahead), true);
    ThreadPool pool(n_threads);
    pool.run(n_chunks, [&](int64_t i, int) { std::memset(region.data() + i * chunk, 1, chunk); });

    std::atomic<uint64_t> total{0};  // keeps the reads from being optimised away
    return best_rate(300, [&] {
        pool.run(n_chunks, [&](int64_t i, int) {
            const uint8_t* bytes = region.data() + i * chunk;
            uint64_t sums[line / 8] = {};
            for (int64_t at = 0; at < chunk; at += line) {
                __builtin_prefetch(bytes + at + ahead, 0, 0);
                const auto* words = reinterpret_cast<const uint64_t*>(bytes + at);
                for (int64_t j = 0; j < line / 8; ++j) sums[j] += words[j];
            }
            for (const uint64_t sum : sums) total += sum;
        });
        return static_cast<double>(n_chunks * chunk);
    });
}

double integer_peak(const Kernels& kernels, int n_threads) {
    constexpr int64_t rounds = 20000;
    ThreadPool pool(n_threads);
    std::atomic<int64_t> done{0};
    return best_rate(300, [&] {
        done = 0;
        pool.run(64 * n_threads, [&](int64_t, int) { done += kernels.spin(rounds); });
        return static_cast<double>(done);
    });
}

}  // namespace stride
