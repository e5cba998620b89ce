/* Sixteen floats at a time, in gcc's vector extensions: zmm registers with AVX-512, pairs of ymm with AVX2,
 * quadruples elsewhere. Every function spells out its order of additions, so that a result depends on its
 * operands alone and never on how many rows were computed beside it. */
#ifndef MOSSO_VECTORS_H
#define MOSSO_VECTORS_H

#include <stdint.h>
#include <string.h>
#ifdef __FMA__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));

INLINE f32x16 load_f32(const float *p) {
    f32x16 v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store_f32(float *p, f32x16 v) { memcpy(p, &v, sizeof v); }

INLINE f32x16 load_bf16(const uint16_t *p) {
    u16x16 half;
    memcpy(&half, p, sizeof half);
    return (f32x16)(__builtin_convertvector(half, u32x16) << 16);
}

INLINE float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint16_t to_bf16(float value) { /* nearest, ties to even; the inputs are finite */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

INLINE f32x16 splat(float value) { return value - (f32x16){0}; }

/* a * b + c. Fused where the processor can, and then always: the compiler may fuse nothing on its own
 * (-ffp-contract=off), since it would not choose alike in every place where the same sum is spelled. */
INLINE f32x16 fma16(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    union {
        f32x16 all;
        __m256 half[2];
    } x = {a}, y = {b}, z = {c};
    z.half[0] = _mm256_fmadd_ps(x.half[0], y.half[0], z.half[0]);
    z.half[1] = _mm256_fmadd_ps(x.half[1], y.half[1], z.half[1]);
    return z.all;
#else
    return a * b + c;
#endif
}

INLINE f32x16 select16(i32x16 mask, f32x16 yes, f32x16 no) {
    return (f32x16)(((i32x16)yes & mask) | ((i32x16)no & ~mask));
}

INLINE f32x16 min16(f32x16 a, f32x16 b) { return select16(a < b, a, b); }
INLINE f32x16 max16(f32x16 a, f32x16 b) { return select16(a > b, a, b); }

#define ROTATE(v, n)                                                                                     \
    __builtin_shuffle(v, (i32x16){0 + n, 1 + n, 2 + n, 3 + n, 4 + n, 5 + n, 6 + n, 7 + n, 8 + n, 9 + n, \
                                  10 + n, 11 + n, 12 + n, 13 + n, 14 + n, 15 + n} & 15)

INLINE float sum16(f32x16 v) {
    v += ROTATE(v, 8);
    v += ROTATE(v, 4);
    v += ROTATE(v, 2);
    v += ROTATE(v, 1);
    return v[0];
}

INLINE float maximum16(f32x16 v) {
    v = max16(v, ROTATE(v, 8));
    v = max16(v, ROTATE(v, 4));
    v = max16(v, ROTATE(v, 2));
    v = max16(v, ROTATE(v, 1));
    return v[0];
}

/* e^x: x = n ln 2 + r with |r| <= ln 2 / 2, a degree-6 Taylor polynomial of r, times 2^n. Relative error under
 * 2e-7 for -87 <= x <= 87; smaller x give 0, larger ones saturate. */
INLINE f32x16 exp16(f32x16 x) {
    const f32x16 clamped = max16(min16(x, splat(87.0f)), splat(-87.5f));
    const f32x16 shifter = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    const f32x16 n = fma16(clamped, splat(1.44269504088896341f), shifter) - shifter;
    const f32x16 r = fma16(n, splat(-1.42860682030941723e-6f), fma16(n, splat(-0.693145751953125f), clamped));
    f32x16 p = fma16(r, splat(1.3888888888e-3f), splat(8.3333333333e-3f));
    p = fma16(p, r, splat(4.1666666667e-2f));
    p = fma16(p, r, splat(1.6666666667e-1f));
    p = fma16(p, r, splat(0.5f));
    p = fma16(p, r, splat(1.0f));
    p = fma16(p, r, splat(1.0f));
    const i32x16 exponent = (__builtin_convertvector(n, i32x16) + 127) << 23;
    const f32x16 result = p * (f32x16)exponent;
    return select16(x < -87.0f, splat(0.0f), result);
}

#endif
