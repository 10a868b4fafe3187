/* ---- core: instruction sets, rounding ------------------------------------------------------------------------------

   Every kernel has up to three bodies, one of which is compiled:

     KERNELS_HELIUM  vectors of 16 bytes (Cortex-M55, M85)
     KERNELS_DSP     pairs of 16-bit numbers in a register (Cortex-M4, M7, M33)
     neither         plain C (a PC, Cortex-M0+, M3, RISC-V)

   Define MODEL_PLAIN_C to have plain C everywhere. The bodies give equal results, bit for bit: sums are exact in int32,
   and one rounding rule turns them into int8. */

#if defined(__FAST_MATH__)
#error "model.c needs IEEE arithmetic: build it without -ffast-math"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off") /* a*b+c rounds twice unless it says fma */
#endif

#if defined(MODEL_PLAIN_C) || !defined(__OPTIMIZE__)
#elif defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 2)
#define KERNELS_HELIUM 1
#include <arm_mve.h>
#elif defined(__ARM_FEATURE_DSP)
#define KERNELS_DSP 1
#endif

#if (defined(__arm__) && !defined(__ARM_FP)) || (defined(__riscv) && !defined(__riscv_flen))
#define SOFT_FLOAT 1
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#else
#define INLINE static inline
#define NOINLINE static
#endif

INLINE int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
INLINE int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
INLINE int8_t clamp(int32_t value, int32_t low, int32_t high) { return (int8_t)larger(low, smaller(value, high)); }

/* The nearest of the 256 levels. */
INLINE int8_t saturate(int32_t value)
{
#if defined(__ARM_FEATURE_SAT) && defined(__GNUC__)
    int32_t result;
    __asm("ssat %0, #8, %1" : "=r"(result) : "r"(value));
    return (int8_t)result;
#else
    return clamp(value, -128, 127);
#endif
}

/* Nearest integer, ties to even. Beyond +-2^20 any number as large will do: the caller clamps to int8. */
INLINE int32_t nearest(float x)
{
#if defined(__ARM_FP) && defined(__thumb2__) && defined(__GNUC__)
    int32_t result;
    __asm("vcvtr.s32.f32 %1, %1\n\tvmov %0, %1" : "=r"(result), "+t"(x));
    return result;
#else
    union { float f; int32_t i; } sum; /* adding 1.5 * 2^23 leaves the integer in the low bits */
    const float limit = 1048576.0f;
    x = x < -limit ? -limit : x > limit ? limit : x;
    sum.f = x + 12582912.0f;
    return sum.i - 0x4B400000;
#endif
}

/* a * b + c, rounded once. b and c are within 2^20 of one another, so that float64 holds the sum exactly. */
INLINE float fused_multiply_add(float a, float b, float c)
{
#if defined(__FP_FAST_FMAF) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    return (float)((double)a * (double)b + (double)c);
#endif
}

/* nearest((float)sum * scale), where `*` and the conversion round to float32. */
#if defined(SOFT_FLOAT)

/* value / 2^bits, ties to even; 0 < bits < 64. */
INLINE uint64_t round_shift(uint64_t value, int32_t bits)
{
    const uint64_t half = (uint64_t)1 << (bits - 1);
    const uint64_t rest = value & (half + half - 1), whole = value >> bits;
    return whole + ((rest > half) | ((rest == half) & (whole & 1)));
}

INLINE int32_t bit_length(uint64_t value)
{
    int32_t length = 0;
    if (value >> 32) { length += 32; value >>= 32; }
    if (value >> 16) { length += 16; value >>= 16; }
    if (value >> 8) { length += 8; value >>= 8; }
    for (; value; value >>= 1) length++;
    return length;
}

/* The same in integers, with both roundings of the float version; `scale` is positive and normal. */
NOINLINE int32_t nearest_scaled(int32_t sum, float scale)
{
    union { float f; uint32_t i; } bits;
    uint64_t product = sum < 0 ? 0u - (uint32_t)sum : (uint32_t)sum;
    int32_t exponent, excess;
    bits.f = scale;
    exponent = (int32_t)(bits.i >> 23) - 127 - 23;
    if ((excess = bit_length(product) - 24) > 0) {
        product = round_shift(product, excess);
        exponent += excess;
    }
    product *= (bits.i & 0x7FFFFFu) | 0x800000u;
    if ((excess = bit_length(product) - 24) > 0) {
        product = round_shift(product, excess);
        exponent += excess;
    }
    if (exponent >= 0)
        product = product ? 1u << 24 : 0;
    else
        product = exponent > -64 ? round_shift(product, -exponent) : 0;
    return sum < 0 ? -(int32_t)product : (int32_t)product;
}

#else

INLINE int32_t nearest_scaled(int32_t sum, float scale) { return nearest((float)sum * scale); }

#endif
