/* The sums of a whole sketch: some rows and columns of a matrix, run by run. */

#pragma once

#include "runs.h"

/* The part of a tensor that is sketched: some rows and columns of its matrix. */
struct view {
    int64_t stride, row0, row1, col0, col1;
    int side, every;
    const float *factors;
    int64_t factor_count;
};

static void add_all(const struct state *s, const struct view *v, const uint8_t *data, int64_t n,
                    int64_t start, enum kind kind, const uint8_t *signs) {
    int64_t row = start / v->stride, col = start % v->stride, rel = row - v->row0;
    int64_t group = rel >= 0 ? rel / v->side : 0, bucket = rel >= 0 ? rel % v->side : 0;
    while (n > 0) {
        int64_t width = v->stride - col < n ? v->stride - col : n;
        int64_t from = col > v->col0 ? col : v->col0, to = col + width < v->col1 ? col + width : v->col1;
        if (rel >= 0 && row < v->row1 && (v->every == 1 || group % v->every == 0)) {
            struct run r = {.signs = signs, .bucket = (int)bucket,
                            .row_sign = sign_bit(signs, group) ? -1.0 : 1.0, .factor = 1.0};
            if (v->factors) r.factor = v->factors[v->factor_count == 1 ? 0 : row];
            while (from < to) {
                r.n = to - from < FLUSH * BLOCK ? to - from : FLUSH * BLOCK;
                r.at = data + (from - col) * WIDTH[kind];
                r.col = from - v->col0;
                add_run_best(s, &r, kind);
                from += r.n;
            }
        }
        data += width * WIDTH[kind];
        n -= width;
        col = 0;
        row++;
        if (rel++ >= 0 && ++bucket == v->side) {
            bucket = 0;
            group++;
        }
    }
}

INLINE void to_floats(const double *at, int n, float *out) {
    for (int i = 0; i < n; i++) out[i] = (float)at[i];
}

typedef void (*rounder)(const double *, int, float *);
static void to_floats_plain(const double *at, int n, float *out) { to_floats(at, n, out); }
static rounder to_floats_best = to_floats_plain;

#if HAS_WIDE
AVX2 static void to_floats_avx2(const double *at, int n, float *out) { to_floats(at, n, out); }
AVX512 static void to_floats_avx512(const double *at, int n, float *out) { to_floats(at, n, out); }
#endif

/* A sketch's sums as floats, cut to `height` rows and `width` columns: the core, and rows and columns one after
   the other. Returns the squared norm. */
static double round_off(const double *at, int side, int height, int width, float *core, float *sides) {
    const double *rows = at + side * SIDE, *cols = rows + side;
    double energy = 0;
    if (width == SIDE) to_floats_best(at, height * SIDE, core);
    else
        for (int i = 0; i < height; i++) to_floats_best(at + i * SIDE, width, core + i * width);
    to_floats_best(rows, height, sides);
    to_floats_best(cols, width, sides + height);
    for (int j = 0; j < SIDE; j++) energy += cols[j];
    return energy;
}
