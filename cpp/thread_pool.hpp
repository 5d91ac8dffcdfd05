// Persistent threads that share out the items of one job at a time.
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

    // body(item, thread) for each item 0 .. n_items - 1, in any order and on any thread; returns when all are done.
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
    // Everything that the threads share. After a fork the child, whose threads are gone, makes a new one.
    struct Shared {
        Job job;
        std::atomic<int64_t> next_item{0};
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
