// AVX2 with FMA and F16C: 8 rows a vector.
#include "kernels.hpp"

#include <immintrin.h>

#include "half.hpp"

#define INLINE inline __attribute__((always_inline))

namespace stride {
namespace avx2 {
namespace {

constexpr int lanes = 8;
constexpr int quantized_vectors = 1;
constexpr int quantized_tokens = 4;
constexpr int float_tokens = 2;
constexpr int attention_queries = 2;

using F = __m256;
using I = __m256i;
using B = __m256i;

INLINE F zero() { return _mm256_setzero_ps(); }
INLINE F broadcast(float x) { return _mm256_set1_ps(x); }
INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
INLINE F plus(F a, F b) { return _mm256_add_ps(a, b); }
INLINE F minus(F a, F b) { return _mm256_sub_ps(a, b); }
INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
INLINE F divide(F a, F b) { return _mm256_div_ps(a, b); }
INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
INLINE F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
INLINE F absolute(F x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
// b where either is NaN
INLINE F larger(F a, F b) { return _mm256_max_ps(a, b); }
INLINE F smaller(F a, F b) { return _mm256_min_ps(a, b); }
INLINE F select_less(F a, F b, F yes, F no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
INLINE F select_nan(F x, F otherwise) { return _mm256_blendv_ps(otherwise, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q)); }
INLINE int clamp_to_page(int64_t n) { return n < 0 ? 0 : n > page_tokens ? page_tokens : static_cast<int>(n); }
// Lanes whose number, counted from `offset`, is in [begin, end).
INLINE F select_range(int offset, int64_t begin, int64_t end, F yes, F no) {
    const I number = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(offset));
    const I below = _mm256_cmpgt_epi32(_mm256_set1_epi32(clamp_to_page(begin)), number);
    const I inside = _mm256_cmpgt_epi32(_mm256_set1_epi32(clamp_to_page(end)), number);
    return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(_mm256_andnot_si256(below, inside)));
}
// p * 2^n, where n is the integer in the low bits of `shifted`.
INLINE F times_power_of_two(F p, F shifted) {
    const I exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
}
INLINE float reduce_add(F x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
INLINE float reduce_max(F x) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
INLINE float first_lane(F x) { return _mm256_cvtss_f32(x); }

INLINE F from_half(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
INLINE F from_bfloat(const uint16_t* p) {
    const I words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
INLINE void store_half(uint16_t* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

INLINE I from_int8(const int8_t* p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
INLINE I from_uint8(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
INLINE F to_float(I x) { return _mm256_cvtepi32_ps(x); }
INLINE I add_ints(I a, I b) { return _mm256_add_epi32(a, b); }
INLINE I mul_ints(I a, I b) { return _mm256_mullo_epi32(a, b); }
// Rounds values within -127 .. 127 to int8 codes; gives their sum.
INLINE int store_rounded(int8_t* p, F x) {
    const I rounded = _mm256_cvtps_epi32(x);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
    const __m128i pairs = _mm_madd_epi16(words, _mm_set1_epi16(1));
    const __m128i two = _mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

INLINE B load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
INLINE B low_nibbles(B x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
INLINE B high_nibbles(B x) { return low_nibbles(_mm256_srli_epi16(x, 4)); }
INLINE B add_bytes(B x, int n) { return _mm256_add_epi8(x, _mm256_set1_epi8(static_cast<char>(n))); }
// Bit i set: byte i is 16.
INLINE B fifth_bits(const uint8_t* p) {
    int bits;
    __builtin_memcpy(&bits, p, 4);
    const B byte_of = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3,
                                       3, 3, 3, 3, 3);
    const B bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
    const B bytes = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte_of), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(bytes, bit), _mm256_set1_epi8(16));
}
// Bits 2 n, 2 n + 1 of each byte, as bits 4 and 5.
template <int n>
INLINE B bit_pairs(B x) {
    const I shifted = n < 2 ? _mm256_slli_epi16(x, n < 2 ? 4 - 2 * n : 0) : _mm256_srli_epi16(x, n < 2 ? 0 : 2 * n - 4);
    return _mm256_and_si256(shifted, _mm256_set1_epi8(0x30));
}
INLINE B signed_codes(B plus_128) { return _mm256_xor_si256(plus_128, _mm256_set1_epi8(-128)); }
INLINE B signed_table(const int8_t* values) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
}
INLINE B look_up(B table, B index) { return _mm256_shuffle_epi8(table, index); }

// What a block's sum starts from: nothing, as codes have their own sign here.
template <bool is_signed>
INLINE I seed(const int32_t*) {
    return _mm256_setzero_si256();
}
using Four = B;  // 4 activations, for every row
INLINE Four repeat_four(const int8_t* activations) {
    int four;
    __builtin_memcpy(&four, activations, 4);
    return _mm256_set1_epi32(four);
}
// Adds to each row's sum its 4 codes times the 4 activations. No pair of products saturates: of signed codes, at most
// 2 * 128 * 127, as |code| * (sign of code * activation) is the product and activations are never -128; of unsigned
// codes (at most 31), far less.
template <bool is_signed>
INLINE I dot(I sum, B codes, Four x) {
    if constexpr (is_signed) {
        x = _mm256_sign_epi8(x, codes);
        codes = _mm256_abs_epi8(codes);
    }
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1)));
}

#include "kernels.inc"

}  // namespace
}  // namespace avx2

const Kernels* kernels_avx2() {
    static constexpr Kernels kernels = avx2::table("avx2", "avx2");
    return &kernels;
}

}  // namespace stride
