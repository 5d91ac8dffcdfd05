// The packed weight layout, shared by all instruction sets, and the quantised form of activations.
//
// A matrix [rows, columns] is a sequence of tiles of 32 rows; the last one is padded with zeros. A tile is read from
// front to end: block of columns after block (256 columns, 32 or 1, as in the format), each all its codes, then its
// scales; every block is a multiple of 64 bytes. Codes come in groups of 32 rows x 4 columns, row after row, so that a
// vector meets one broadcast 4-byte piece of the activations. For each 32 columns:
//
//   IQ4_*, Q4_*   4 x 128 bytes; group i holds columns 4 i .. 4 i + 3 in low nibbles, 16 + 4 i .. in high nibbles
//   Q5_K          the same, then 8 x 128 bits: the fifth bits of column group 0 .. 7
//   Q6_K          the same, then 2 x 128 bytes: the high bit pairs of columns 0 .. 15 and 16 .. 31; bits 2 i, 2 i + 1
//                 of a byte belong to column group i (or 4 + i)
//   Q8_0          8 x 128 bytes; code + 128
//   F32, F16, BF16  per column 32 values
//
// Scales are 32 values per quantity, one a row: `Scales32`, `ScalesIq4Xs`, `ScalesK` or `ScalesQ6K` below.
#pragma once

#include <cstddef>
#include <cstdint>

namespace stride {

// Raised with every change of this layout: files that hold packed weights are of one version.
constexpr int layout_version = 1;

constexpr int tile_rows = 32;
constexpr int block_columns = 32;  // columns that share one activation scale
constexpr int group_bytes = tile_rows * 4;  // codes of 4 columns, a byte each

// GGML's type numbers.
enum class Type : int {
    f32 = 0,
    f16 = 1,
    q4_0 = 2,
    q8_0 = 8,
    q4_k = 12,
    q5_k = 13,
    q6_k = 14,
    iq4_nl = 20,
    iq4_xs = 23,
    bf16 = 30,
};

// 32 activations of one token: x[i] = scale * codes[i].
struct Activation {
    int8_t codes[block_columns];
    float scale;
    float scaled_sum;      // scale * sum of the codes, for formats with a minimum
    int32_t seed;          // -128 * sum of the codes, for codes that are held with 128 added
    int32_t half_seeds[2]; // the same of the first and last 16
};

// Scales of a block of a tile.
struct Scales32 {  // IQ4_NL, Q4_0, Q8_0: 32 columns
    uint16_t scale[tile_rows];
};
struct ScalesIq4Xs {  // 256 columns; ls - 32
    int8_t sub[8][tile_rows];
    uint16_t scale[tile_rows];
};
struct ScalesK {  // Q4_K, Q5_K: 256 columns
    uint8_t sub[8][tile_rows];
    uint8_t sub_min[8][tile_rows];
    uint16_t scale[tile_rows];
    uint16_t min[tile_rows];
};
struct ScalesQ6K {  // 256 columns
    int8_t sub[16][tile_rows];
    uint16_t scale[tile_rows];
};

struct Format {
    Type type;
    const char* name;
    int block;        // columns per block
    int file_bytes;   // per block of one row, in a GGUF file
    int code_bytes;   // per block of a tile
    int scale_bytes;  // per block of a tile, after the codes
    bool quantized;   // works on int8 activations

    int64_t file_row_bytes(int64_t columns) const { return columns / block * file_bytes; }
    int64_t tile_bytes(int64_t columns) const { return columns / block * (code_bytes + scale_bytes); }
    int64_t packed_bytes(int64_t count, int64_t rows, int64_t columns) const {
        return count * ((rows + tile_rows - 1) / tile_rows) * tile_bytes(columns);
    }
};

// nullptr: not a native type.
const Format* find_format(int type);

constexpr int8_t iq4_codebook[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

}  // namespace stride
