// The inner loops, compiled once per instruction set. Each computes an output in an order that depends on nothing but
// the output itself: never on how many tokens, rows or threads there are.
#pragma once

#include <cstddef>
#include <cstdint>

#include "format.hpp"

namespace stride {

constexpr int page_tokens = 32;
constexpr int value_step = 32;  // dimensions of values that are summed together: their number is padded to whole ones

enum class KVKind { f32, f16, q8_0 };

// One head's part of a page of the KV cache:
//   keys    [key_dim][32 tokens]; q8_0: then float16 scales [key_dim / 32][32 tokens]
//   values  [32 tokens][padded_value_dim]; q8_0: then float16 scales [32 tokens][value_dim / 32]
// Keys are transposed, so that scores of 32 tokens need no horizontal sums.
struct KVLayout {
    KVKind kind;
    int64_t key_dim, value_dim, padded_value_dim;
    int64_t key_scales, values, value_scales, head_bytes;  // offsets; 64-byte aligned

    KVLayout(KVKind kind, int64_t key_dim, int64_t value_dim);
};

// Attention of a few query vectors, all of one key/value head, to a stretch of consecutive pages.
struct AttentionSpan {
    const KVLayout* layout;
    const uint8_t* const* pages;  // the head's part of each page, and of the one that is wanted next, or nullptr
    int64_t n_pages;
    int64_t first_position;       // of the first page
    int64_t n_queries;
    const float* const* queries;  // key_dim values each
    const int64_t* first;         // per query: attends to positions first .. last
    const int64_t* last;
    float scale;
    float* scratch;               // attention_scratch(layout, n_queries) floats
};

// Unnormalised result per query: sums [n][padded_value_dim], and their maximum score and sum of weights.
struct AttentionSums {
    float* values;
    float* max;
    float* weight;
};

constexpr float lowest_score = -3e38f;  // finite, so that differences of two are not NaN

constexpr int most_lanes = 16, most_attention_queries = 16;  // of any instruction set

inline int64_t attention_scratch(const KVLayout& layout, int64_t n_queries) {
    return n_queries * most_lanes + most_attention_queries * page_tokens + layout.padded_value_dim +
           page_tokens * (layout.key_dim + layout.padded_value_dim);
}

// A tile by `n` tokens: out[t * tile_rows + row]. inputs[t] is const Activation* for quantized formats, else const
// float*. next: the tile that will likely be wanted after this one, or nullptr; quantized formats fetch its beginning.
using TileKernel = void (*)(const uint8_t* tile, int64_t columns, const void* const* inputs, int64_t n, float* out,
                            const uint8_t* next);

struct Kernels {
    const char* name;
    const char* option;  // what STRIDE_ISA calls it

    int64_t (*peak_dots)(int64_t n);  // n rounds of dot products in registers; gives the multiply-adds done
    TileKernel (*tile)(Type type);
    void (*quantize)(const float* x, int64_t columns, Activation* out);

    void (*add)(float* x, const float* delta, int64_t n);
    void (*add_scaled)(float* out, const float* x, float weight, int64_t n);
    void (*rms_norm)(const float* x, const float* weight, int64_t n, float epsilon, float* out);
    // limit 0: no clamp
    void (*swiglu)(const float* gate, const float* up, int64_t n, float limit, float* out);
    // Rotates pairs of a head in place; cos_sin is cos [pairs], then sin [pairs].
    void (*rotate)(float* head, const float* cos_sin, int64_t pairs, bool adjacent);

    void (*store_token)(const KVLayout& layout, const float* key, const float* value, int64_t slot, uint8_t* head);
    void (*attend)(const AttentionSpan& span, const AttentionSums& out);
    // Adds a later stretch's sums to those of the stretches before it.
    void (*merge)(const KVLayout& layout, int64_t n_queries, const AttentionSums& later, const AttentionSums& sums);
    // Normalised output of one query, times sigmoid(*gate) where there is a gate.
    void (*finish)(const float* values, float weight, const float* gate, int64_t value_dim, float* out);
    void (*sigmoid)(const float* x, int64_t n, float* out);
    void (*softmax)(const float* x, int64_t n, float* out);
};

const Kernels* kernels_portable();
const Kernels* kernels_avx2();  // this and the next: built for x86 only
const Kernels* kernels_avxvnni();
const Kernels* kernels_avx512();

}  // namespace stride
