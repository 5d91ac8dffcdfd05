// GGUF blocks into the packed layout, and single rows out of it.
#pragma once

#include "format.hpp"

namespace stride {

// `n_rows` (at most tile_rows) rows as they are in the file, into a tile whose memory is zero.
void pack_tile(const Format& format, const uint8_t* rows, int n_rows, int64_t columns, uint8_t* tile);

// Row `row` (of tile_rows) of a tile as float32.
void unpack_row(const Format& format, const uint8_t* tile, int row, int64_t columns, float* out);

}  // namespace stride
