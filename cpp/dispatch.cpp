#include "dispatch.hpp"

#include <algorithm>

#ifdef STRIDE_X86
#include <cpuid.h>
#endif

namespace stride {

namespace {

#ifdef STRIDE_X86
bool all_set(unsigned bits, std::initializer_list<int> wanted) {
    return std::all_of(wanted.begin(), wanted.end(), [bits](int bit) { return (bits >> bit & 1) != 0; });
}

struct Features {
    bool avx2 = false, avxvnni = false, avx512 = false;  // with what their kernels use besides

    // By hand: not every compiler's run-time library fills in what __builtin_cpu_supports() reads.
    Features() {
        unsigned a, b, c, d;
        if (!__get_cpuid(1, &a, &b, &c, &d)) return;
        constexpr int fma = 12, osxsave = 27, avx = 28, f16c = 29;
        if (!all_set(c, {fma, osxsave, avx, f16c})) return;
        unsigned saved, unused;  // the registers that the system saves
        asm volatile("xgetbv" : "=a"(saved), "=d"(unused) : "c"(0));
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        constexpr int avx2_bit = 5, avx512f = 16, avx512dq = 17, avx512bw = 30, avx512vl = 31, vnni = 11;
        avx2 = all_set(saved, {1, 2}) && all_set(b, {avx2_bit});
        avx512 = avx2 && all_set(saved, {5, 6, 7}) && all_set(b, {avx512f, avx512dq, avx512bw, avx512vl}) &&
                 all_set(c, {vnni});
        constexpr int avxvnni_bit = 4;
        avxvnni = avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && all_set(a, {avxvnni_bit});
    }
};
#endif

}  // namespace

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> kernels;
#ifdef STRIDE_X86
    const Features features;
    if (features.avx512) kernels.push_back(kernels_avx512());
#ifdef STRIDE_AVXVNNI
    if (features.avxvnni) kernels.push_back(kernels_avxvnni());
#endif
    if (features.avx2) kernels.push_back(kernels_avx2());
#endif
    kernels.push_back(kernels_portable());
    return kernels;
}

std::string compiler() {
#ifdef __clang__
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}

}  // namespace stride
