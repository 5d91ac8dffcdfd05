#include "probe.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "memory.hpp"

namespace stride {

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

uint64_t read_through(ThreadPool& pool, const uint8_t* bytes, int64_t n_bytes) {
    constexpr int64_t chunk = 1 << 20, line = 64, ahead = 6144;
    std::atomic<uint64_t> total{0};
    pool.run((n_bytes + chunk - 1) / chunk, [&](int64_t i, int) {
        uint64_t sums[line / 8] = {};
        const int64_t end = std::min((i + 1) * chunk, n_bytes / line * line);
        for (int64_t at = i * chunk; at < end; at += line) {
            __builtin_prefetch(bytes + at + ahead, 0, 0);
            const auto* words = reinterpret_cast<const uint64_t*>(bytes + at);
            for (int64_t j = 0; j < line / 8; ++j) sums[j] += words[j];
        }
        for (const uint64_t sum : sums) total += sum;
    });
    return total;
}

double read_bandwidth(int64_t n_bytes, int n_threads) {
    constexpr int64_t touched = 4 << 20;
    const Region region(static_cast<size_t>(n_bytes), true);
    ThreadPool pool(n_threads);
    pool.run((n_bytes + touched - 1) / touched, [&](int64_t i, int) {
        std::memset(region.data() + i * touched, 1, static_cast<size_t>(std::min(touched, n_bytes - i * touched)));
    });
    std::atomic<uint64_t> total{0};  // keeps the reads from being optimised away
    return best_rate(300, [&] {
        total += read_through(pool, region.data(), n_bytes);
        return static_cast<double>(n_bytes);
    });
}

double integer_peak(const Kernels& kernels, int n_threads) {
    constexpr int64_t rounds = 20000;
    ThreadPool pool(n_threads);
    std::atomic<int64_t> done{0};
    return best_rate(300, [&] {
        done = 0;
        pool.run(64 * n_threads, [&](int64_t, int) { done += kernels.peak_dots(rounds); });
        return static_cast<double>(done);
    });
}

}  // namespace stride
