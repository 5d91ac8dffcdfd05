// Jobs of all sizes on pools of several threads, some after a pause in which the threads fell asleep: every item is done
// once, and what it wrote is seen. scripts/sanitize runs this under the thread sanitizer.
#include "../../cpp/thread_pool.hpp"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

int main() {
    for (const int n_threads : {1, 2, 3, 8}) {
        stride::ThreadPool pool(n_threads);
        std::vector<int> done(1000);  // not atomic: the pool must order what threads write and the caller reads
        for (int round = 0; round < 2000; ++round) {
            const auto n_items = static_cast<int64_t>(round * 7 % static_cast<int>(done.size() + 1));
            pool.run(n_items, [&](int64_t item, int thread) {
                if (thread < 0 || thread >= n_threads) std::abort();
                ++done[static_cast<size_t>(item)];
            });
            for (int64_t item = 0; item < static_cast<int64_t>(done.size()); ++item) {
                int& count = done[static_cast<size_t>(item)];
                if (count != (item < n_items ? 1 : 0)) {
                    std::printf("%d threads, job %d of %ld items: item %ld done %d times\n", n_threads, round,
                                static_cast<long>(n_items), static_cast<long>(item), count);
                    return 1;
                }
                count = 0;
            }
            if (round % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
    }
    std::puts("thread pool: 8000 jobs, every item once");
    return 0;
}
