// AVX-512 with VNNI: 16 rows a vector; signed codes are held with 128 added, as vpdpbusd wants them.
#include "kernels.hpp"

#include <immintrin.h>

#include "half.hpp"

#define INLINE inline __attribute__((always_inline))

namespace stride {
namespace avx512 {
namespace {

constexpr int lanes = 16;
constexpr int quantized_vectors(int) { return 2; }
constexpr int quantized_tokens = 8;
constexpr int float_vectors(int tokens) { return tokens <= 3 ? 2 : 1; }  // four sums of each in registers
constexpr int float_tokens = 4;
constexpr int attention_queries = 8;

using F = __m512;
using I = __m512i;
using B = __m512i;

INLINE F zero() { return _mm512_setzero_ps(); }
INLINE F broadcast(float x) { return _mm512_set1_ps(x); }
INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
INLINE F plus(F a, F b) { return _mm512_add_ps(a, b); }
INLINE F minus(F a, F b) { return _mm512_sub_ps(a, b); }
INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
INLINE F divide(F a, F b) { return _mm512_div_ps(a, b); }
INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
INLINE F absolute(F x) { return _mm512_abs_ps(x); }
// b where either is NaN
INLINE F larger(F a, F b) { return _mm512_max_ps(a, b); }
INLINE F smaller(F a, F b) { return _mm512_min_ps(a, b); }
INLINE F select_less(F a, F b, F yes, F no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
INLINE F select_nan(F x, F otherwise) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), otherwise, x);
}
INLINE uint64_t bits_below(int64_t n) { return n <= 0 ? 0 : n >= 32 ? 0xffffffff : (uint64_t{1} << n) - 1; }
// Lanes whose number, counted from `offset`, is in [begin, end).
INLINE F select_range(int offset, int64_t begin, int64_t end, F yes, F no) {
    const uint64_t bits = bits_below(end) & ~bits_below(begin);
    return _mm512_mask_blend_ps(static_cast<__mmask16>(bits >> offset), no, yes);
}
// p * 2^n, where n is the integer in the low bits of `shifted`.
INLINE F times_power_of_two(F p, F shifted) {
    const I exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), exponent));
}
INLINE float reduce_add(F x) { return _mm512_reduce_add_ps(x); }
INLINE float reduce_max(F x) { return _mm512_reduce_max_ps(x); }
INLINE float first_lane(F x) { return _mm512_cvtss_f32(x); }

INLINE F from_half(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
INLINE F from_bfloat(const uint16_t* p) {
    const I words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}
INLINE void store_half(uint16_t* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

INLINE I from_int8(const int8_t* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
INLINE I from_uint8(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
INLINE F to_float(I x) { return _mm512_cvtepi32_ps(x); }
INLINE I add_ints(I a, I b) { return _mm512_add_epi32(a, b); }
INLINE I mul_ints(I a, I b) { return _mm512_mullo_epi32(a, b); }
// Rounds values within -127 .. 127 to int8 codes; gives their sum.
INLINE int store_rounded(int8_t* p, F x) {
    const I rounded = _mm512_cvtps_epi32(x);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(rounded));
    return _mm512_reduce_add_epi32(rounded);
}

INLINE B load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
INLINE B low_nibbles(B x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
INLINE B high_nibbles(B x) { return low_nibbles(_mm512_srli_epi16(x, 4)); }
// Bit i set: byte i is 16.
INLINE B fifth_bits(const uint8_t* p) {
    uint64_t bits;
    __builtin_memcpy(&bits, p, 8);
    return _mm512_maskz_mov_epi8(bits, _mm512_set1_epi8(16));
}
// Bits 2 n, 2 n + 1 of each byte, as bits 4 and 5.
template <int n>
INLINE B bit_pairs(B x) {
    const I shifted = n < 2 ? _mm512_slli_epi16(x, n < 2 ? 4 - 2 * n : 0) : _mm512_srli_epi16(x, n < 2 ? 0 : 2 * n - 4);
    return _mm512_and_si512(shifted, _mm512_set1_epi8(0x30));
}
INLINE B signed_codes(B plus_128) { return plus_128; }
INLINE B signed_table(const int8_t* values) {
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
    return _mm512_broadcast_i32x4(_mm_xor_si128(table, _mm_set1_epi8(-128)));
}
INLINE B look_up(B table, B index) { return _mm512_shuffle_epi8(table, index); }

// What a block's sum starts from: minus the codes' excess over their values. *excess_128: for an excess of 128.
template <int excess>
INLINE I seed(const int32_t* excess_128) {
    if constexpr (excess == 0) return _mm512_setzero_si512();
    else return _mm512_srai_epi32(_mm512_set1_epi32(*excess_128), excess == 128 ? 0 : excess == 32 ? 2 : 4);
}
constexpr int dots_in_words(int) { return 0; }  // sums are 32 bits from the first product on
using Four = B;  // 4 activations, for every row
INLINE void keep_apart(Four& x) { asm volatile("" : "+v"(x)); }
INLINE Four repeat_four(const int8_t* activations) {
    int four;
    __builtin_memcpy(&four, activations, 4);
    return _mm512_set1_epi32(four);
}
// Adds to each row's sum its 4 codes times the 4 activations.
template <int excess>
INLINE I dot(I sum, B codes, Four x) {
    return _mm512_dpbusd_epi32(sum, codes, x);
}

#include "kernels.inc"

}  // namespace
}  // namespace avx512

const Kernels* kernels_avx512() {
    static constexpr Kernels kernels = avx512::table("avx512-vnni", "avx512");
    return &kernels;
}

}  // namespace stride
