#include "pack.hpp"

#include <cstring>

#include "half.hpp"

namespace stride {

namespace {

constexpr Format formats[] = {
    // type, name, block, file, codes, scales, quantized
    {Type::f32, "F32", 1, 4, 128, 0, false},
    {Type::f16, "F16", 1, 2, 64, 0, false},
    {Type::bf16, "BF16", 1, 2, 64, 0, false},
    {Type::q4_0, "Q4_0", 32, 18, 512, sizeof(Scales32), true},
    {Type::iq4_nl, "IQ4_NL", 32, 18, 512, sizeof(Scales32), true},
    {Type::q8_0, "Q8_0", 32, 34, 1024, sizeof(Scales32), true},
    {Type::iq4_xs, "IQ4_XS", 256, 136, 8 * 512, sizeof(ScalesIq4Xs), true},
    {Type::q4_k, "Q4_K", 256, 144, 8 * 512, sizeof(ScalesK), true},
    {Type::q5_k, "Q5_K", 256, 176, 8 * (512 + 128), sizeof(ScalesK), true},
    {Type::q6_k, "Q6_K", 256, 210, 8 * (512 + 256), sizeof(ScalesQ6K), true},
};

constexpr int nibble_bytes = 4 * group_bytes;    // 32 columns of nibbles
constexpr int fifth_bytes = 8 * group_bytes / 8; // 32 columns of fifth bits
constexpr int pair_bytes = 2 * group_bytes;      // 32 columns of bit pairs
constexpr int sub_blocks = 8;                    // of 32 columns in a block of 256

uint32_t load_word(const uint8_t* p) {
    uint32_t word;
    std::memcpy(&word, p, 4);
    return word;
}

void store_word(uint8_t* p, uint32_t word) { std::memcpy(p, &word, 4); }

uint16_t load_half(const uint8_t* p) {
    uint16_t half;
    std::memcpy(&half, p, 2);
    return half;
}

// 16 bytes that hold columns 0 .. 15 in low and 16 .. 31 in high nibbles.
void pack_nibbles(const uint8_t* bytes, int row, uint8_t* codes) {
    for (int i = 0; i < 4; ++i) store_word(codes + i * group_bytes + row * 4, load_word(bytes + 4 * i));
}

// 32 bytes whose low (shift 0) or high (shift 4) nibbles are columns 0 .. 31: K-quants.
void pack_split_nibbles(const uint8_t* bytes, int shift, int row, uint8_t* codes) {
    constexpr uint32_t low = 0x0f0f0f0f;
    for (int i = 0; i < 4; ++i) {
        const uint32_t first = load_word(bytes + 4 * i) >> shift & low;
        const uint32_t second = load_word(bytes + 16 + 4 * i) >> shift & low;
        store_word(codes + i * group_bytes + row * 4, first | second << 4);
    }
}

void pack_scales32(const uint8_t* block, int row, uint8_t* scales) {
    reinterpret_cast<Scales32*>(scales)->scale[row] = load_half(block);
}

void pack_q4(const uint8_t* block, int row, uint8_t* codes, uint8_t* scales) {
    pack_scales32(block, row, scales);
    pack_nibbles(block + 2, row, codes);
}

void pack_q8_0(const uint8_t* block, int row, uint8_t* codes, uint8_t* scales) {
    pack_scales32(block, row, scales);
    for (int i = 0; i < 8; ++i)
        store_word(codes + i * group_bytes + row * 4, load_word(block + 2 + 4 * i) ^ 0x80808080);
}

void pack_iq4_xs(const uint8_t* block, int row, uint8_t* codes, uint8_t* scales) {
    auto& packed = *reinterpret_cast<ScalesIq4Xs*>(scales);
    packed.scale[row] = load_half(block);
    const int high = load_half(block + 2);
    for (int b = 0; b < sub_blocks; ++b) {
        const int low = block[4 + b / 2] >> (b % 2 * 4) & 15;
        packed.sub[b][row] = static_cast<int8_t>((low | (high >> 2 * b & 3) << 4) - 32);
        pack_nibbles(block + 8 + 16 * b, row, codes + b * nibble_bytes);
    }
}

// The 6-bit scales and minima of Q4_K and Q5_K; `block` starts with two halves and 12 bytes.
void pack_scales_k(const uint8_t* block, int row, ScalesK& packed) {
    packed.scale[row] = load_half(block);
    packed.min[row] = load_half(block + 2);
    const uint8_t* s = block + 4;
    for (int j = 0; j < 4; ++j) {
        packed.sub[j][row] = s[j] & 63;
        packed.sub_min[j][row] = s[j + 4] & 63;
        packed.sub[j + 4][row] = static_cast<uint8_t>((s[j + 8] & 15) | s[j] >> 6 << 4);
        packed.sub_min[j + 4][row] = static_cast<uint8_t>(s[j + 8] >> 4 | s[j + 4] >> 6 << 4);
    }
}

void pack_q4_k(const uint8_t* block, int row, uint8_t* codes, uint8_t* scales) {
    pack_scales_k(block, row, *reinterpret_cast<ScalesK*>(scales));
    for (int b = 0; b < sub_blocks; ++b)
        pack_split_nibbles(block + 16 + b / 2 * 32, b % 2 * 4, row, codes + b * nibble_bytes);
}

void pack_q5_k(const uint8_t* block, int row, uint8_t* codes, uint8_t* scales) {
    pack_scales_k(block, row, *reinterpret_cast<ScalesK*>(scales));
    const uint8_t* fifth = block + 16;  // bit b of byte l: column l of sub-block b
    for (int b = 0; b < sub_blocks; ++b) {
        uint8_t* sub = codes + b * (nibble_bytes + fifth_bytes);
        pack_split_nibbles(block + 48 + b / 2 * 32, b % 2 * 4, row, sub);
        uint8_t* bits = sub + nibble_bytes + row / 2;  // 4 bits a row and column group
        for (int i = 0; i < 8; ++i) {
            int four = 0;
            for (int k = 0; k < 4; ++k) four |= (fifth[4 * i + k] >> b & 1) << k;
            bits[group_bytes / 8 * i] = static_cast<uint8_t>(bits[group_bytes / 8 * i] | four << (row % 2 * 4));
        }
    }
}

void pack_q6_k(const uint8_t* block, int row, uint8_t* codes, uint8_t* scales) {
    auto& packed = *reinterpret_cast<ScalesQ6K*>(scales);
    for (int i = 0; i < 16; ++i) packed.sub[i][row] = static_cast<int8_t>(block[192 + i]);
    packed.scale[row] = load_half(block + 208);
    for (int b = 0; b < sub_blocks; ++b) {
        const int half = b / 4, quarter = b % 4;
        uint8_t* sub = codes + b * (nibble_bytes + pair_bytes);
        pack_split_nibbles(block + 64 * half + quarter % 2 * 32, quarter / 2 * 4, row, sub);
        const uint8_t* high = block + 128 + 32 * half;  // bit pair `quarter` of byte l: column l
        for (int side = 0; side < 2; ++side) {
            uint32_t pairs = 0;
            for (int i = 0; i < 4; ++i)
                pairs |= (load_word(high + 16 * side + 4 * i) >> 2 * quarter & 0x03030303) << 2 * i;
            store_word(sub + nibble_bytes + side * group_bytes + row * 4, pairs);
        }
    }
}

template <int Bytes>
void pack_values(const uint8_t* value, int row, uint8_t* codes, uint8_t*) {
    std::memcpy(codes + row * Bytes, value, Bytes);
}

template <typename PackBlock>
void pack_blocks(const Format& format, const uint8_t* rows, int n_rows, int64_t columns, uint8_t* tile,
                 PackBlock pack_block) {
    const int64_t row_bytes = format.file_row_bytes(columns), n_blocks = columns / format.block;
    for (int64_t b = 0; b < n_blocks; ++b, tile += format.code_bytes + format.scale_bytes)
        for (int row = 0; row < n_rows; ++row)
            pack_block(rows + row * row_bytes + b * format.file_bytes, row, tile, tile + format.code_bytes);
}

// Code of column `column` (0 .. 31) in nibbles.
int nibble(const uint8_t* codes, int row, int column) {
    const uint8_t byte = codes[column % 16 / 4 * group_bytes + row * 4 + column % 4];
    return column < 16 ? byte & 15 : byte >> 4;
}

int code_q5(const uint8_t* codes, int row, int column) {
    const int bit = row * 4 + column % 4;
    const int fifth = codes[nibble_bytes + column / 4 * group_bytes / 8 + bit / 8] >> bit % 8 & 1;
    return nibble(codes, row, column) | fifth << 4;
}

int code_q6(const uint8_t* codes, int row, int column) {
    const int pairs = codes[nibble_bytes + column / 16 * group_bytes + row * 4 + column % 4];
    return (nibble(codes, row, column) | (pairs >> column % 16 / 4 * 2 & 3) << 4) - 32;
}

// One row of 32 columns, the `sub`th of a block.
void unpack_columns(Type type, const uint8_t* codes, const uint8_t* scales, int sub, int row, float* out) {
    const auto each = [out](auto value) {
        for (int c = 0; c < block_columns; ++c) out[c] = value(c);
    };
    switch (type) {
        case Type::q4_0:
        case Type::iq4_nl: {
            const float scale = half_to_float(reinterpret_cast<const Scales32*>(scales)->scale[row]);
            if (type == Type::q4_0) return each([&](int c) { return scale * (nibble(codes, row, c) - 8); });
            return each([&](int c) { return scale * iq4_codebook[nibble(codes, row, c)]; });
        }
        case Type::q8_0: {
            const float scale = half_to_float(reinterpret_cast<const Scales32*>(scales)->scale[row]);
            return each([&](int c) { return scale * (codes[c / 4 * group_bytes + row * 4 + c % 4] - 128); });
        }
        case Type::iq4_xs: {
            const auto& packed = *reinterpret_cast<const ScalesIq4Xs*>(scales);
            const float scale = half_to_float(packed.scale[row]) * packed.sub[sub][row];
            return each([&](int c) { return scale * iq4_codebook[nibble(codes, row, c)]; });
        }
        case Type::q4_k:
        case Type::q5_k: {
            const auto& packed = *reinterpret_cast<const ScalesK*>(scales);
            const float scale = half_to_float(packed.scale[row]) * packed.sub[sub][row];
            const float min = half_to_float(packed.min[row]) * packed.sub_min[sub][row];
            if (type == Type::q4_k) return each([&](int c) { return scale * nibble(codes, row, c) - min; });
            return each([&](int c) { return scale * code_q5(codes, row, c) - min; });
        }
        case Type::q6_k: {
            const auto& packed = *reinterpret_cast<const ScalesQ6K*>(scales);
            const float scale = half_to_float(packed.scale[row]);
            return each([&](int c) { return scale * packed.sub[2 * sub + c / 16][row] * code_q6(codes, row, c); });
        }
        case Type::f32:
        case Type::f16:
        case Type::bf16: return;
    }
}

}  // namespace

const Format* find_format(int type) {
    for (const Format& format : formats)
        if (static_cast<int>(format.type) == type) return &format;
    return nullptr;
}

void pack_tile(const Format& format, const uint8_t* rows, int n_rows, int64_t columns, uint8_t* tile) {
    switch (format.type) {
        case Type::f32: return pack_blocks(format, rows, n_rows, columns, tile, pack_values<4>);
        case Type::f16:
        case Type::bf16: return pack_blocks(format, rows, n_rows, columns, tile, pack_values<2>);
        case Type::q4_0:
        case Type::iq4_nl: return pack_blocks(format, rows, n_rows, columns, tile, pack_q4);
        case Type::q8_0: return pack_blocks(format, rows, n_rows, columns, tile, pack_q8_0);
        case Type::iq4_xs: return pack_blocks(format, rows, n_rows, columns, tile, pack_iq4_xs);
        case Type::q4_k: return pack_blocks(format, rows, n_rows, columns, tile, pack_q4_k);
        case Type::q5_k: return pack_blocks(format, rows, n_rows, columns, tile, pack_q5_k);
        case Type::q6_k: return pack_blocks(format, rows, n_rows, columns, tile, pack_q6_k);
    }
}

void unpack_row(const Format& format, const uint8_t* tile, int row, int64_t columns, float* out) {
    if (format.type == Type::f32) {
        for (int64_t c = 0; c < columns; ++c) std::memcpy(out + c, tile + (c * tile_rows + row) * 4, 4);
    } else if (format.type == Type::f16) {
        for (int64_t c = 0; c < columns; ++c) out[c] = half_to_float(load_half(tile + (c * tile_rows + row) * 2));
    } else if (format.type == Type::bf16) {
        for (int64_t c = 0; c < columns; ++c) out[c] = bfloat_to_float(load_half(tile + (c * tile_rows + row) * 2));
    } else {
        const int subs = format.block / block_columns;
        for (int64_t b = 0; b < columns / format.block; ++b, tile += format.code_bytes + format.scale_bytes)
            for (int sub = 0; sub < subs; ++sub, out += block_columns)
                unpack_columns(format.type, tile + sub * (format.code_bytes / subs), tile + format.code_bytes, sub, row,
                               out);
    }
}

}  // namespace stride
