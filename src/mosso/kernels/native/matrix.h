/* Products of activations (float32) with weight rows stored as float32, bfloat16 or MXFP4.
 *
 * A product of one activation row and one weight row is always the same sequence of operations: sixteen partial
 * sums over steps of 32 elements, first sixteen then last sixteen, then a fixed tree. Blocking only changes
 * which products run side by side. */
#ifndef MOSSO_MATRIX_H
#define MOSSO_MATRIX_H

#include <stdlib.h>

#include "vectors.h"

enum { F32, BF16, MXFP4 };
enum { STEP = 32, BLOCK = 32, WIDE = 8 }; /* BLOCK: weight rows of one task; past WIDE rows blocks are expanded */

#ifdef __AVX512F__
enum { TILE_ROWS = 4, TILE_COLUMNS = 4, TILE_COLUMNS_OF_ONE = 8 }; /* 16 sums, 8 activations, 2 weights */
#else
enum { TILE_ROWS = 2, TILE_COLUMNS = 2, TILE_COLUMNS_OF_ONE = 4 };
#endif

typedef struct {
    int type;
    int64_t columns; /* elements of a row; for MXFP4 a multiple of 32 */
    const char *data;
    const uint8_t *scales; /* of MXFP4, a byte for 32 elements */
} Matrix;

static const i8x16 DOUBLED = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}; /* twice E2M1's values */

INLINE int64_t row_bytes(int type, int64_t columns) {
    return type == F32 ? 4 * columns : type == BF16 ? 2 * columns : columns / 2;
}

INLINE Matrix matrix_rows(const Matrix *m, int64_t first) {
    Matrix rows = *m;
    rows.data += first * row_bytes(m->type, m->columns);
    if (m->type == MXFP4) rows.scales += first * (m->columns / STEP);
    return rows;
}

/* Elements k .. k+31 of a row. Of MXFP4 the even ones come first, then the odd ones: see stored_index. */
INLINE void load_step(const int type, const char *row, const uint8_t *scales, int64_t k, f32x16 *a, f32x16 *b) {
    if (type == F32) {
        *a = load_f32((const float *)row + k);
        *b = load_f32((const float *)row + k + 16);
    } else if (type == BF16) {
        *a = load_bf16((const uint16_t *)row + k);
        *b = load_bf16((const uint16_t *)row + k + 16);
    } else {
        u8x16 bytes;
        memcpy(&bytes, row + k / 2, sizeof bytes);
        const i8x16 low = __builtin_shuffle(DOUBLED, (i8x16)(bytes & 15));
        const i8x16 high = __builtin_shuffle(DOUBLED, (i8x16)(bytes >> 4));
        const float unit = 0.5f * bits_to_float((uint32_t)scales[k / STEP] << 23);
        *a = __builtin_convertvector(__builtin_convertvector(low, i32x16), f32x16) * unit;
        *b = __builtin_convertvector(__builtin_convertvector(high, i32x16), f32x16) * unit;
    }
}

/* Where element k of an activation row must stand to meet its weight. */
INLINE int64_t stored_index(int type, int64_t k) {
    return type == MXFP4 ? k / STEP * STEP + k % STEP / 2 + (k % 2) * 16 : k;
}

INLINE void load_tail(const int type, const char *row, int64_t k, int64_t columns, f32x16 *a, f32x16 *b) {
    float values[STEP] = {0};
    for (int64_t i = k; i < columns; i++)
        values[i - k] = type == F32 ? ((const float *)row)[i] : bits_to_float((uint32_t)((const uint16_t *)row)[i] << 16);
    *a = load_f32(values);
    *b = load_f32(values + 16);
}

/* out[r * stride + c] = x[r] . weight row c, for a tile of constant size. */
INLINE void tile(const int type, const int rows, const int columns, const Matrix *w, const float *const *x,
                 float *out, int64_t stride) {
    f32x16 sums[TILE_ROWS][TILE_COLUMNS_OF_ONE] = {0};
    const int64_t bytes = row_bytes(type, w->columns), steps = w->columns / STEP;
    for (int64_t step = 0; step < steps; step++) {
        const int64_t k = step * STEP;
        f32x16 a, b;
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) {
            load_step(type, w->data + c * bytes, type == MXFP4 ? w->scales + c * steps : NULL, k, &a, &b);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) {
                sums[r][c] = fma16(load_f32(x[r] + k), a, sums[r][c]);
                sums[r][c] = fma16(load_f32(x[r] + k + 16), b, sums[r][c]);
            }
        }
    }
    if (type != MXFP4 && w->columns % STEP) {
        const int64_t k = steps * STEP;
        f32x16 a, b, xa, xb;
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) {
            load_tail(type, w->data + c * bytes, k, w->columns, &a, &b);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) {
                load_tail(F32, (const char *)x[r], k, w->columns, &xa, &xb);
                sums[r][c] = fma16(xa, a, sums[r][c]);
                sums[r][c] = fma16(xb, b, sums[r][c]);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) out[r * stride + c] = sum16(sums[r][c]);
}

INLINE void tiles_of(const int type, const int rows, const int columns, const Matrix *w, int64_t count,
                     const float *const *x, float *out, int64_t stride) {
    int64_t c = 0;
    for (; c + columns <= count; c += columns) {
        const Matrix part = matrix_rows(w, c);
        tile(type, rows, columns, &part, x, out + c, stride);
    }
    for (; c < count; c++) {
        const Matrix part = matrix_rows(w, c);
        tile(type, rows, 1, &part, x, out + c, stride);
    }
}

#define MULTIPLY(name, type)                                                                                \
    static void name(const Matrix *w, int64_t count, const float *const *x, int64_t rows, float *out,       \
                     int64_t stride) {                                                                      \
        int64_t r = 0;                                                                                      \
        for (; r + TILE_ROWS <= rows; r += TILE_ROWS)                                                       \
            tiles_of(type, TILE_ROWS, TILE_COLUMNS, w, count, x + r, out + r * stride, stride);             \
        for (; r < rows; r++)                                                                               \
            tiles_of(type, 1, TILE_COLUMNS_OF_ONE, w, count, x + r, out + r * stride, stride);              \
    }

MULTIPLY(multiply_f32, F32)
MULTIPLY(multiply_bf16, BF16)
MULTIPLY(multiply_mxfp4, MXFP4)

/* `count` rows of w as float32, in the order that activations of w's type have. */
static void expand(const Matrix *w, int64_t count, float *out) {
    const int64_t bytes = row_bytes(w->type, w->columns), steps = w->columns / STEP;
    for (int64_t c = 0; c < count; c++) {
        const char *row = w->data + c * bytes;
        float *to = out + c * w->columns;
        f32x16 a, b;
        for (int64_t k = 0; k < steps * STEP; k += STEP) {
            if (w->type == BF16) load_step(BF16, row, NULL, k, &a, &b);
            else load_step(MXFP4, row, w->scales + c * steps, k, &a, &b);
            store_f32(to + k, a);
            store_f32(to + k + 16, b);
        }
        for (int64_t k = steps * STEP; k < w->columns; k++)
            to[k] = bits_to_float((uint32_t)((const uint16_t *)row)[k] << 16);
    }
}

/* On a cache line's boundary: a load across two lines takes twice as long. */
INLINE float *allocate_floats(int64_t count) {
    return aligned_alloc(64, ((size_t)count * sizeof(float) + 63) / 64 * 64);
}

/* out[r * stride + c] = x[r] . row c of w, c < count <= BLOCK. */
static void multiply(const Matrix *w, int64_t count, const float *const *x, int64_t rows, float *out,
                     int64_t stride) {
    float *expanded = NULL;
    if (w->type != F32 && rows > WIDE) expanded = allocate_floats(count * w->columns);
    if (expanded) { /* widen each weight once, not once for every few rows */
        const Matrix wide = {F32, w->columns, (const char *)expanded, NULL};
        expand(w, count, expanded);
        multiply_f32(&wide, count, x, rows, out, stride);
        free(expanded);
    } else if (w->type == F32) {
        multiply_f32(w, count, x, rows, out, stride);
    } else if (w->type == BF16) {
        multiply_bf16(w, count, x, rows, out, stride);
    } else {
        multiply_mxfp4(w, count, x, rows, out, stride);
    }
}

#endif
