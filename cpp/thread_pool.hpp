// Persistent threads that share out the items of one job at a time.
//
// Each thread starts with a stretch of neighbouring items, in order, and helps others from the end of theirs once it is
// done. Neighbours often lie side by side in memory: a thread that reads on and on is up to twice as fast as two that
// take turns, as each fetches ahead what the other then reads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace stride {

class ThreadPool {
public:
    // `n_threads` counts the thread that calls run().
    explicit ThreadPool(int n_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int n_threads() const { return n_threads_; }

    // body(item, thread) for each item 0 .. n_items - 1 (below 2^32), in any order and on any thread; returns when all
    // are done.
    // `body` must not throw. One caller at a time.
    template <class Body>
    void run(int64_t n_items, const Body& body) {
        if (n_items <= 1 || n_threads_ == 1) {
            for (int64_t item = 0; item < n_items; ++item) body(item, 0);
            return;
        }
        run_job({n_items, &body, [](const void* context, int64_t item, int thread) {
                     (*static_cast<const Body*>(context))(item, thread);
                 }});
    }

private:
    struct Job {
        int64_t n_items = 0;
        const void* context = nullptr;
        void (*call)(const void* context, int64_t item, int thread) = nullptr;
    };
    // Items that are left: the first in the low half, one past the last in the high half. The owner takes from the
    // front, others from the back.
    struct alignas(64) Stretch {
        std::atomic<uint64_t> left{0};

        void set(int64_t first, int64_t end) {
            left.store(static_cast<uint64_t>(first) | static_cast<uint64_t>(end) << 32);
        }
        // An item, or -1.
        int64_t take(bool front) {
            uint64_t seen = left.load(std::memory_order_relaxed);
            for (;;) {
                const uint64_t first = seen & 0xffffffff, end = seen >> 32;
                if (first >= end) return -1;
                const uint64_t rest = front ? seen + 1 : seen - (uint64_t{1} << 32);
                if (left.compare_exchange_weak(seen, rest)) return static_cast<int64_t>(front ? first : end - 1);
            }
        }
    };
    // Everything that the threads share. After a fork the child, whose threads are gone, makes a new one.
    struct Shared {
        Job job;
        std::vector<Stretch> stretches;    // one a thread
        std::atomic<uint64_t> opened{0};   // jobs opened so far
        std::atomic<bool> open{false};     // a thread may join the job
        std::atomic<int> inside{0};        // threads that work on it or look whether they may
        std::atomic<bool> stop{false};
        std::mutex mutex;
        std::condition_variable wake;
        int sleeping = 0;                  // guarded by the mutex
        std::vector<std::thread> threads;
    };

    void start();
    void run_job(const Job& job);
    static void work(Shared& shared, int thread);
    static void take_items(Shared& shared, int thread);

    int n_threads_;
    long process_ = 0;  // that the threads live in
    Shared* shared_ = nullptr;
};

}  // namespace stride
