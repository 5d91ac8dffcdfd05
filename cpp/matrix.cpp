#include "matrix.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "pack.hpp"

#if defined(__linux__) && !defined(MADV_POPULATE_READ)
#define MADV_POPULATE_READ 22  // of Linux 5.14; older C libraries do not name it
#endif

namespace stride {

namespace {

constexpr int64_t staging_bytes = 1 << 20;  // per thread and read
constexpr int64_t populated_bytes = 16 << 20;  // at once
constexpr int64_t page_bytes = 4096;           // or more

// Bytes read, fewer only at the end of the file; -errno on failure.
int64_t read_fully(int file, uint8_t* out, int64_t n_bytes, int64_t offset) {
    int64_t done = 0;
    while (done < n_bytes) {
        const ssize_t n = pread(file, out + done, static_cast<size_t>(n_bytes - done), offset + done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        if (n == 0) break;
        done += n;
    }
    return done;
}

// Advice only: where the system does not take it, reading is slower once memory is full.
void forget_cached(int file, int64_t n_bytes, int64_t offset) {
#ifdef POSIX_FADV_DONTNEED
    static_cast<void>(posix_fadvise(file, offset, n_bytes, POSIX_FADV_DONTNEED));
#elif defined(F_NOCACHE)
    static_cast<void>(n_bytes), static_cast<void>(offset);
    static_cast<void>(fcntl(file, F_NOCACHE, 1));
#endif
}

}  // namespace

Matrix::Matrix(const Format& format, int64_t count, int64_t rows, int64_t columns, int file, int64_t offset)
    : MatrixShape(format, count, rows, columns),
      mapped_(file != none),
      data_(mapped_ ? Region(file, offset, static_cast<size_t>(n_bytes()))
                    : Region(static_cast<size_t>(n_bytes()), true)) {}

bool Matrix::lock() const { return mlock(data_.data(), static_cast<size_t>(n_bytes())) == 0; }

int Matrix::populate(ThreadPool& pool) const {
    const int64_t pieces = (n_bytes() + populated_bytes - 1) / populated_bytes;
    std::atomic<int> error{0};
    std::atomic<uint64_t> total{0};  // keeps the reads from being optimised away
    pool.run(pieces, [&](int64_t i, int) {
        uint8_t* start = data_.data() + i * populated_bytes;
        const int64_t n = std::min(populated_bytes, n_bytes() - i * populated_bytes);
#ifdef MADV_POPULATE_READ
        if (madvise(start, static_cast<size_t>(n), MADV_POPULATE_READ) == 0) return;
        // Where the kernel knows the advice but cannot follow it, touching the memory would end the process. What a
        // file does not have, or the disk does not give, it calls a bad address.
        if (errno != EINVAL) return error.store(errno == EFAULT ? EIO : errno);
#endif
        for (int64_t at = 0; at < n; at += page_bytes) total += start[at];
    });
    return error.load();
}

void Matrix::pack(int64_t index, int64_t first, int64_t n, const uint8_t* rows) {
    const int64_t row_bytes = format().file_row_bytes(columns());
    for (int64_t row = 0; row < n; row += tile_rows) {
        const int n_rows = static_cast<int>(std::min<int64_t>(tile_rows, n - row));
        uint8_t* tile = data_.data() + (index * tiles() + (first + row) / tile_rows) * tile_bytes();
        pack_tile(format(), rows + row * row_bytes, n_rows, columns(), tile);
    }
}

int64_t Matrix::read(ThreadPool& pool, int file, int64_t offset, bool keep_cached) {
    const int64_t row_bytes = format().file_row_bytes(columns());
    const int64_t step = std::max<int64_t>(1, staging_bytes / (row_bytes * tile_rows)) * tile_rows;  // rows per read
    const int64_t steps = (rows() + step - 1) / step;
    std::vector<Buffer<uint8_t>> staging(static_cast<size_t>(pool.n_threads()));
    for (Buffer<uint8_t>& buffer : staging) buffer.get(step * row_bytes);
    std::atomic<int64_t> result{-1};
    pool.run(count() * steps, [&](int64_t item, int thread) {
        if (result.load() != -1) return;
        const int64_t index = item / steps, first = item % steps * step;
        const int64_t n = std::min(step, rows() - first);
        uint8_t* bytes = staging[static_cast<size_t>(thread)].get(step * row_bytes);
        const int64_t start = offset + (index * rows() + first) * row_bytes;
        const int64_t done = read_fully(file, bytes, n * row_bytes, start);
        if (!keep_cached) forget_cached(file, n * row_bytes, start);
        if (done == n * row_bytes) pack(index, first, n, bytes);
        else result.store(done < 0 ? done - 1 : start + done);
    });
    return result.load();
}

void Matrix::row(int64_t index, int64_t row, float* out) const {
    unpack_row(format(), tile(index, row / tile_rows), static_cast<int>(row % tile_rows), columns(), out);
}

}  // namespace stride
