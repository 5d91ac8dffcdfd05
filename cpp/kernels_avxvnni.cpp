// AVX2 with AVX-VNNI: signed codes are held with 128 added, as vpdpbusd wants them.
#include "kernels.hpp"

#include <immintrin.h>

#include "half.hpp"

#define INLINE inline __attribute__((always_inline))

namespace stride {
namespace avxvnni {
namespace {

#include "kernels_256.inc"

INLINE B signed_codes(B plus_128) { return plus_128; }
INLINE B signed_table(const int8_t* values) {
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
    return _mm256_broadcastsi128_si256(_mm_xor_si128(table, _mm_set1_epi8(-128)));
}
// What a block's sum starts from: minus the codes' excess over their values. *excess_128: for an excess of 128.
template <int excess>
INLINE I seed(const int32_t* excess_128) {
    if constexpr (excess == 0) return _mm256_setzero_si256();
    else return _mm256_srai_epi32(_mm256_set1_epi32(*excess_128), excess == 128 ? 0 : excess == 32 ? 2 : 4);
}
constexpr int dots_in_words(int) { return 0; }  // sums are 32 bits from the first product on
// Adds to each row's sum its 4 codes times the 4 activations.
template <int excess>
INLINE I dot(I sum, B codes, Four x) {
    return _mm256_dpbusd_avx_epi32(sum, codes, x);
}

#include "kernels.inc"

}  // namespace
}  // namespace avxvnni

const Kernels* kernels_avxvnni() {
    static constexpr Kernels kernels = avxvnni::table("avx2-vnni", "avxvnni");
    return &kernels;
}

}  // namespace stride
