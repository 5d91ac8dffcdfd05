// AVX2 with FMA and F16C.
#include "kernels.hpp"

#include <immintrin.h>

#include "half.hpp"

#define INLINE inline __attribute__((always_inline))

namespace stride {
namespace avx2 {
namespace {

#include "kernels_256.inc"

INLINE B signed_codes(B plus_128) { return _mm256_xor_si256(plus_128, _mm256_set1_epi8(-128)); }
INLINE B signed_table(const int8_t* values) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
}
// What a block's sum starts from: minus the codes' excess over their values. *excess_128: for an excess of 128; but
// such codes have their own sign here.
template <int excess>
INLINE I seed(const int32_t* excess_128) {
    if constexpr (excess == 0 || excess == 128) return _mm256_setzero_si256();
    else return _mm256_srai_epi32(_mm256_set1_epi32(*excess_128), excess == 32 ? 2 : 4);
}
// Small codes: pairs of products are added up in 16 bits, as often as they surely fit, then in 32.
constexpr int dots_in_words(int most_code) { return most_code > 127 ? 0 : 32767 / (2 * 127 * most_code); }
INLINE I dot_words(B codes, Four x) { return _mm256_maddubs_epi16(codes, x); }
INLINE I add_words(I a, I b) { return _mm256_add_epi16(a, b); }
INLINE I add_pairs(I sum, I words) { return _mm256_add_epi32(sum, _mm256_madd_epi16(words, _mm256_set1_epi16(1))); }
// Adds to each row's sum its 4 signed codes times the 4 activations. No pair of products saturates: it is at most
// 2 * 128 * 127, as |code| * (sign of code * activation) is the product and activations are never -128.
template <int excess>
INLINE I dot(I sum, B codes, Four x) {
    return add_pairs(sum, _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes)));
}

#include "kernels.inc"

}  // namespace
}  // namespace avx2

const Kernels* kernels_avx2() {
    static constexpr Kernels kernels = avx2::table("avx2", "avx2");
    return &kernels;
}

}  // namespace stride
