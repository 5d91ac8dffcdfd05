// A weight in memory: a matrix, or a stack of them, in the packed layout.
#pragma once

#include <array>
#include <cstdint>

#include "format.hpp"
#include "memory.hpp"
#include "thread_pool.hpp"

namespace stride {

// A matrix or a stack of them, but for its values.
class MatrixShape {
public:
    // columns must be whole blocks of the format.
    MatrixShape(const Format& format, int64_t count, int64_t rows, int64_t columns)
        : format_(&format),
          count_(count),
          rows_(rows),
          columns_(columns),
          tiles_((rows + tile_rows - 1) / tile_rows),
          tile_bytes_(format.tile_bytes(columns)) {}

    const Format& format() const { return *format_; }
    int64_t count() const { return count_; }
    int64_t rows() const { return rows_; }
    int64_t columns() const { return columns_; }
    int64_t tiles() const { return tiles_; }  // per matrix
    int64_t tile_bytes() const { return tile_bytes_; }
    int64_t matrix_bytes() const { return tiles_ * tile_bytes_; }
    int64_t n_bytes() const { return count_ * matrix_bytes(); }

private:
    const Format* format_;
    int64_t count_, rows_, columns_, tiles_, tile_bytes_;
};

// Where packed matrices of one shape lie: the one at place p at data + p * stride.
struct TileStack {
    const MatrixShape* shape = nullptr;
    const uint8_t* data = nullptr;
    int64_t stride = 0;

    const uint8_t* at(int64_t place) const { return data + place * stride; }
};

class Matrix : public MatrixShape {
public:
    static constexpr int none = -1;  // no file

    // columns must be whole blocks of the format. With a file: one that lies packed there, read only: neither read()
    // nor pack() may be called. std::system_error: it cannot be mapped.
    Matrix(const Format& format, int64_t count, int64_t rows, int64_t columns, int file = none, int64_t offset = 0);

    bool is_mapped() const { return mapped_; }
    const uint8_t* data() const { return data_.data(); }
    const uint8_t* tile(int64_t index, int64_t t) const {
        return data_.data() + index * matrix_bytes() + t * tile_bytes();
    }
    TileStack stack() const { return {this, data_.data(), matrix_bytes()}; }

    // Reads and packs all rows, from a file, on all threads. Gives -1, or the offset at which the file ended, or
    // -1 - errno where reading failed (below -1). Without `keep_cached` the system forgets each part once it is packed.
    int64_t read(ThreadPool& pool, int file, int64_t offset, bool keep_cached);

    // Keeps it in memory, whatever else memory is wanted for; false: the system does not allow that.
    bool lock() const;

    // Brings a mapped matrix into memory, on all threads. Gives 0, or the errno of what could not be read.
    int populate(ThreadPool& pool) const;

    // Packs rows `first` .. `first + n` of matrix `index`, which lie in memory as in a file. first is a multiple of
    // tile_rows.
    void pack(int64_t index, int64_t first, int64_t n, const uint8_t* rows);

    void row(int64_t index, int64_t row, float* out) const;

private:
    bool mapped_;
    Region data_;
};

}  // namespace stride
