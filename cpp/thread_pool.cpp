#include "thread_pool.hpp"

#include <unistd.h>

namespace stride {

namespace {

// A worker looks for the next job this often before it sleeps: some 50 microseconds, more than the time between two
// operations of a step.
constexpr int looks_before_sleep = 2000;

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int n_threads) : n_threads_(n_threads) { start(); }

void ThreadPool::start() {
    process_ = getpid();
    shared_ = new Shared;
    shared_->stretches = std::vector<Stretch>(static_cast<size_t>(n_threads_));
    for (int thread = 1; thread < n_threads_; ++thread)
        shared_->threads.emplace_back([shared = shared_, thread] { work(*shared, thread); });
}

ThreadPool::~ThreadPool() {
    if (getpid() != process_) return;  // a forked child: the threads are the parent's, and so is their memory
    {
        const std::lock_guard lock(shared_->mutex);
        shared_->stop = true;
    }
    shared_->wake.notify_all();
    for (std::thread& thread : shared_->threads) thread.join();
    delete shared_;
}

void ThreadPool::take_items(Shared& shared, int thread) {
    const Job job = shared.job;
    const auto n_threads = static_cast<int>(shared.stretches.size());
    for (int k = 0; k < n_threads; ++k) {
        Stretch& stretch = shared.stretches[static_cast<size_t>((thread + k) % n_threads)];
        for (int64_t item; (item = stretch.take(k == 0)) >= 0;) job.call(job.context, item, thread);
    }
}

// A thread that comes late finds the job closed and is not waited for: `inside` rises before `open` is read, and the
// caller clears `open` before it reads `inside`, so at least one of them sees the other.
void ThreadPool::work(Shared& shared, int thread) {
    uint64_t seen = 0;
    for (;;) {
        for (int look = 0; shared.opened.load() == seen && look < looks_before_sleep; ++look) pause_briefly();
        if (shared.opened.load() == seen) {
            std::unique_lock lock(shared.mutex);
            ++shared.sleeping;
            shared.wake.wait(lock, [&] { return shared.stop || shared.opened.load() != seen; });
            --shared.sleeping;
        }
        if (shared.stop) return;
        seen = shared.opened.load();
        shared.inside.fetch_add(1);
        if (shared.open.load()) take_items(shared, thread);
        shared.inside.fetch_sub(1);
    }
}

void ThreadPool::run_job(const Job& job) {
    if (getpid() != process_) start();
    Shared& shared = *shared_;
    shared.job = job;
    for (int64_t k = 0; k < n_threads_; ++k)
        shared.stretches[static_cast<size_t>(k)].set(job.n_items * k / n_threads_, job.n_items * (k + 1) / n_threads_);
    shared.open.store(true);
    bool anyone_sleeps;
    {
        const std::lock_guard lock(shared.mutex);
        shared.opened.fetch_add(1);
        anyone_sleeps = shared.sleeping > 0;
    }
    if (anyone_sleeps) shared.wake.notify_all();
    take_items(shared, 0);
    shared.open.store(false);
    for (int look = 0; shared.inside.load() > 0; ++look) {
        if (look < looks_before_sleep) pause_briefly();
        else std::this_thread::yield();
    }
}

}  // namespace stride
