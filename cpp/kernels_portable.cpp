// Plain C++ for every machine: 4 rows a vector, as 16-byte vectors of GCC and clang are registers nearly everywhere.
#include "kernels.hpp"

#include "half.hpp"

#define INLINE inline __attribute__((always_inline))

namespace stride {
namespace portable {
namespace {

constexpr int lanes = 4;
constexpr int quantized_vectors(int) { return 1; }
constexpr int quantized_tokens = 4;
constexpr int float_vectors(int tokens) { return tokens == 1 ? 2 : 1; }
constexpr int float_tokens = 2;
constexpr int attention_queries = 2;

typedef float F __attribute__((vector_size(4 * lanes)));
typedef int32_t I __attribute__((vector_size(4 * lanes)));
typedef uint32_t U __attribute__((vector_size(4 * lanes)));
typedef uint8_t B __attribute__((vector_size(4 * lanes)));
typedef int16_t Words __attribute__((vector_size(4 * lanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * lanes)));
typedef int8_t Int8Lanes __attribute__((vector_size(lanes)));
typedef uint8_t Uint8Lanes __attribute__((vector_size(lanes)));

template <class V, class T>
INLINE V load_vector(const T* p) {
    V x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
}

INLINE F broadcast(float x) { return F{} + x; }
INLINE F zero() { return F{}; }
INLINE F load(const float* p) { return load_vector<F>(p); }
INLINE void store(float* p, F x) { __builtin_memcpy(p, &x, sizeof x); }
INLINE F plus(F a, F b) { return a + b; }
INLINE F minus(F a, F b) { return a - b; }
INLINE F mul(F a, F b) { return a * b; }
INLINE F divide(F a, F b) { return a / b; }
INLINE F fma(F a, F b, F c) { return a * b + c; }
INLINE F fnma(F a, F b, F c) { return c - a * b; }
INLINE F select(I mask, F yes, F no) {
    return reinterpret_cast<F>((reinterpret_cast<I>(yes) & mask) | (reinterpret_cast<I>(no) & ~mask));
}
INLINE F absolute(F x) { return reinterpret_cast<F>(reinterpret_cast<I>(x) & 0x7fffffff); }
// b where either is NaN
INLINE F larger(F a, F b) { return select(a > b, a, b); }
INLINE F smaller(F a, F b) { return select(a < b, a, b); }
INLINE F select_less(F a, F b, F yes, F no) { return select(a < b, yes, no); }
INLINE F select_nan(F x, F otherwise) { return select(x == x, otherwise, x); }
INLINE int clamp_to_page(int64_t n) { return n < 0 ? 0 : n > page_tokens ? page_tokens : static_cast<int>(n); }
// Lanes whose number, counted from `offset`, is in [begin, end).
INLINE F select_range(int offset, int64_t begin, int64_t end, F yes, F no) {
    const I number = I{0, 1, 2, 3} + offset;
    return select((number >= clamp_to_page(begin)) & (number < clamp_to_page(end)), yes, no);
}
// p * 2^n, where n is the integer in the low bits of `shifted`.
INLINE F times_power_of_two(F p, F shifted) {
    return reinterpret_cast<F>(reinterpret_cast<U>(p) + (reinterpret_cast<U>(shifted) << 23));
}
INLINE float reduce_add(F x) { return (x[0] + x[2]) + (x[1] + x[3]); }
INLINE float reduce_max(F x) {
    float max = x[0];
    for (int i = 1; i < lanes; ++i) max = x[i] > max ? x[i] : max;
    return max;
}
INLINE float first_lane(F x) { return x[0]; }

// half_to_float() of each lane.
INLINE F from_half(const uint16_t* p) {
    const U half = __builtin_convertvector(load_vector<Halves>(p), U);
    const U sign = (half & 0x8000) << 16, magnitude = half & 0x7fff;
    const F finite = reinterpret_cast<F>(magnitude << 13) * bits_to_float(0x77800000);
    const F other = reinterpret_cast<F>((magnitude << 13 & 0x7fe000) | 0x7f800000);
    const F value = select(magnitude >= 0x7c00, other, finite);
    return reinterpret_cast<F>(reinterpret_cast<U>(value) | sign);
}
INLINE F from_bfloat(const uint16_t* p) {
    return reinterpret_cast<F>(__builtin_convertvector(load_vector<Halves>(p), U) << 16);
}
INLINE void store_half(uint16_t* p, F x) {
    for (int i = 0; i < lanes; ++i) p[i] = float_to_half(x[i]);
}

INLINE I from_int8(const int8_t* p) { return __builtin_convertvector(load_vector<Int8Lanes>(p), I); }
INLINE I from_uint8(const uint8_t* p) { return __builtin_convertvector(load_vector<Uint8Lanes>(p), I); }
INLINE F to_float(I x) { return __builtin_convertvector(x, F); }
INLINE I add_ints(I a, I b) { return a + b; }
INLINE I mul_ints(I a, I b) { return a * b; }
// Rounds values within -127 .. 127 to int8 codes; gives their sum.
INLINE int store_rounded(int8_t* p, F x) {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    const I rounded = reinterpret_cast<I>(x + 12582912.0f) - 0x4b400000;
    int sum = 0;
    for (int i = 0; i < lanes; ++i) {
        p[i] = static_cast<int8_t>(rounded[i]);
        sum += rounded[i];
    }
    return sum;
}

INLINE B load_bytes(const uint8_t* p) { return load_vector<B>(p); }
INLINE B low_nibbles(B x) { return x & 15; }
INLINE B high_nibbles(B x) { return x >> 4; }
// Bit i set: byte i is 16.
INLINE B fifth_bits(const uint8_t* p) {
    constexpr uint64_t everywhere = 0x0101010101010101;
    const uint64_t bytes[2] = {everywhere * p[0], everywhere * p[1]};
    const B bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    return reinterpret_cast<B>((load_vector<B>(bytes) & bit) == bit) & 16;
}
// Bits 2 n, 2 n + 1 of each byte, as bits 4 and 5.
template <int n>
INLINE B bit_pairs(B x) {
    return (x >> 2 * n & 3) << 4;
}
INLINE B signed_codes(B plus_128) { return plus_128 ^ 128; }
INLINE const int8_t* signed_table(const int8_t* values) { return values; }
INLINE B look_up(const int8_t* table, B index) {
    uint8_t indices[4 * lanes], values[4 * lanes];
    __builtin_memcpy(indices, &index, sizeof indices);
    for (int i = 0; i < 4 * lanes; ++i) values[i] = static_cast<uint8_t>(table[indices[i]]);
    return load_vector<B>(values);
}

// What a block's sum starts from: minus the codes' excess over their values. *excess_128: for an excess of 128; but
// such codes have their own sign here.
template <int excess>
INLINE I seed(const int32_t* excess_128) {
    return excess == 0 || excess == 128 ? I{} : I{} + *excess_128 / (128 / (excess == 0 ? 1 : excess));
}
constexpr int dots_in_words(int) { return 0; }
INLINE Words repeat_pair(int8_t a, int8_t b) {
    const int16_t pair[2] = {a, b};
    return reinterpret_cast<Words>(I{} + load_vector<int32_t>(pair));
}
struct Four {  // 4 activations, for every row
    Words even, odd;
};
INLINE void keep_apart(Four& x) { asm volatile("" : "+m"(x)); }
INLINE Four repeat_four(const int8_t* activations) {
    return {repeat_pair(activations[0], activations[2]), repeat_pair(activations[1], activations[3])};
}
// Adds to each row's sum its 4 codes times the 4 activations. Two products fit 16 bits: 2 * 128 * 127 at most, and
// unsigned codes, which are below 128, read as signed ones.
template <int excess>
INLINE I dot(I sum, B codes, Four x) {
    const Words words = reinterpret_cast<Words>(codes);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    const Words even = (words << 8) >> 8, odd = words >> 8;
#else
    const Words odd = (words << 8) >> 8, even = words >> 8;
#endif
    const I pairs = reinterpret_cast<I>(even * x.even + odd * x.odd);
    return sum + ((pairs << 16) >> 16) + (pairs >> 16);
}

#include "kernels.inc"

}  // namespace
}  // namespace portable

const Kernels* kernels_portable() {
    static constexpr Kernels kernels = portable::table("portable", "portable");
    return &kernels;
}

}  // namespace stride
