// Memory: anonymous mappings, buffers that grow, and arrays that are used again.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <system_error>
#include <vector>

namespace stride {

// Zeroed memory that becomes resident as it is touched. 64-byte aligned.
class Region {
public:
    // huge: in pages of 2 MiB where the system has them; for memory that will be used whole.
    Region(size_t n_bytes, bool huge) : mapped_(n_bytes + huge_page) {
        void* start = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (start == MAP_FAILED) throw std::bad_alloc();
        start_ = start;
        const auto address = reinterpret_cast<uintptr_t>(start);
        data_ = reinterpret_cast<uint8_t*>((address + huge_page - 1) / huge_page * huge_page);
#ifdef MADV_HUGEPAGE
        if (huge && n_bytes >= huge_page) madvise(data_, n_bytes, MADV_HUGEPAGE);  // advice only: failure costs speed
#else
        static_cast<void>(huge);
#endif
    }
    // Part of a file, read only: its pages come as they are touched. The offset is a multiple of the system's pages. If
    // the file becomes shorter meanwhile, touching what is gone ends the process (SIGBUS).
    Region(int file, int64_t offset, size_t n_bytes) : mapped_(n_bytes) {
        start_ = mmap(nullptr, mapped_, PROT_READ, MAP_SHARED, file, static_cast<off_t>(offset));
        if (start_ == MAP_FAILED) throw std::system_error(errno, std::generic_category());
        data_ = static_cast<uint8_t*>(start_);
#ifdef MADV_HUGEPAGE
        madvise(data_, n_bytes, MADV_HUGEPAGE);
#endif
    }
    ~Region() { munmap(start_, mapped_); }
    Region(const Region&) = delete;
    Region& operator=(const Region&) = delete;

    uint8_t* data() const { return data_; }

private:
    static constexpr size_t huge_page = size_t{2} << 20;
    size_t mapped_;
    void* start_;
    uint8_t* data_;
};

inline void* allocate_aligned(size_t n_bytes) {
    void* p = std::aligned_alloc(64, (n_bytes + 63) / 64 * 64);
    if (p == nullptr) throw std::bad_alloc();
    return p;
}

// Uninitialised scratch memory that only grows.
template <class T>
class Buffer {
public:
    Buffer() = default;
    ~Buffer() { std::free(data_); }
    Buffer(Buffer&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr, other.size_ = 0; }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    // At least `n` values; earlier contents and pointers are lost.
    T* get(int64_t n) {
        if (n > size_) {
            std::free(data_);
            data_ = nullptr, size_ = 0;
            data_ = static_cast<T*>(allocate_aligned(static_cast<size_t>(n) * sizeof(T)));
            size_ = n;
        }
        return data_;
    }

private:
    T* data_ = nullptr;
    int64_t size_ = 0;
};

// Memory of output arrays: a freed block is handed out again, as fresh pages cost more than most operations.
class ArrayCache {
public:
    void* allocate(size_t n_bytes) {
        int size_class = smallest_class;
        while ((size_t{1} << size_class) < n_bytes) ++size_class;
        {
            const std::lock_guard lock(mutex_);
            auto& blocks = free_[size_class];
            if (!blocks.empty()) {
                void* data = blocks.back();
                blocks.pop_back();
                held_ -= size_t{1} << size_class;
                return data;
            }
        }
        auto* block = static_cast<uint8_t*>(allocate_aligned(header + (size_t{1} << size_class)));
        *reinterpret_cast<int*>(block) = size_class;
        return block + header;
    }

    void release(void* data) {
        uint8_t* block = static_cast<uint8_t*>(data) - header;
        const int size_class = *reinterpret_cast<const int*>(block);
        const size_t n_bytes = size_t{1} << size_class;
        const std::lock_guard lock(mutex_);
        if (held_ + n_bytes > most_held) {
            std::free(block);
        } else {
            free_[size_class].push_back(data);
            held_ += n_bytes;
        }
    }

private:
    static constexpr size_t header = 64;
    static constexpr int smallest_class = 8;
    static constexpr size_t most_held = size_t{256} << 20;
    std::mutex mutex_;
    std::map<int, std::vector<void*>> free_;
    size_t held_ = 0;
};

}  // namespace stride
