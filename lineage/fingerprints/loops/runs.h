/* What a run of one row of values adds to the sums of a sketch. */

#pragma once

#include "vectors.h"

enum { AHEAD = 2048 }; /* bytes: how far ahead of the loop memory is asked for */
enum { FLUSH = 256 };  /* blocks of a run at most */

/* What one tensor adds up to; the layout of the Python side's array of doubles. */
struct state {
    double *core, *rows, *cols, *fourth, *zeros, *left_out, *common;
};

static int sign_bit(const uint8_t *signs, int64_t at) { return signs[at >> 3] >> (at & 7) & 1; }

/* A run of one row: `n` values from column `col` on. */
struct run {
    const uint8_t *at;
    const uint8_t *signs;
    int64_t n, col;
    int bucket;      /* of the row */
    double factor;   /* what the stored numbers are multiplied with, the row's sign left out */
    double row_sign;
};

/* The same sums in double, value by value, for numbers that are none or that float cannot square. */
static void add_slowly(const struct state *s, const struct run *r, enum kind kind) {
    for (int64_t i = 0; i < r->n; i++) {
        double x = (double)one(r->at + i * WIDTH[kind], kind) * r->factor;
        if (!(fabs(x) <= LARGEST)) {
            *s->left_out += 1;
            x = 0;
        } else if (x == 0) *s->zeros += 1;
        int64_t col = r->col + i;
        int q = (int)(col % SIDE);
        double sign = sign_bit(r->signs, col / SIDE) ? -r->row_sign : r->row_sign;
        double square = x * x;
        s->core[r->bucket * SIDE + q] += sign * x;
        s->rows[r->bucket] += square;
        s->cols[q] += square;
        *s->fourth += square * square;
    }
}

/* Signs of a block's groups, four bits of the stream, as factors of its places. */
static float factors_of[1 << GROUPS][BLOCK] __attribute__((aligned(64)));

static void fill_factors(void) {
    for (int bits = 0; bits < 1 << GROUPS; bits++)
        for (int i = 0; i < BLOCK; i++) factors_of[bits][i] = bits >> (i / SIDE) & 1 ? -1.0f : 1.0f;
}

INLINE const float *factors_at(const uint8_t *signs, int64_t block) {
    return factors_of[signs[block >> 1] >> (4 * (block & 1)) & 15];
}

/* The sums of one run, a place for each column of a block. */
struct sums {
    float sum[BLOCK] __attribute__((aligned(64)));
    float square[BLOCK] __attribute__((aligned(64)));
    lanes fourth;
    words least; /* negative where some square was zero */
};

/* Whole blocks, then whole vectors, then `rest` values, from a block's first column on; the sums stay in
   registers. Only wide loops take a rest. */
INLINE void add_blocks(struct sums *a, const uint8_t *at, int64_t blocks, int vectors, int rest, int64_t block,
                       const uint8_t *signs, enum kind kind, enum width width) {
    int is_wide = width == WIDE;
    lanes sum[PARTS] = {0}, square[PARTS] = {0}, fourth[2] = {0};
    words none = (words){} + (is_wide ? INT32_MAX : 0), least[2] = {none, none};
    for (int64_t b = 0; b <= blocks; b++, at += BLOCK * WIDTH[kind]) {
        const lanes *sign = (const lanes *)factors_at(signs, block + b);
        int last = b < blocks ? PARTS : vectors;
#ifdef __GNUC__
        for (int i = 0; b < blocks && i < BLOCK * WIDTH[kind]; i += 64) __builtin_prefetch(at + AHEAD + i);
#endif
#pragma GCC unroll 9
        for (int k = 0; k < PARTS; k++) {
            const uint8_t *from = at + k * LANES * WIDTH[kind];
            int is_rest = is_wide && k == last && b == blocks && rest;
            if (k >= last && !is_rest) break;
            lanes v = is_rest ? load_some(from, rest, kind) : load_as(from, kind, width), q = v * v;
            sum[k] += v * sign[k];
            square[k] += q;
            fourth[k & 1] += q * q;
            if (is_rest) least[k & 1] = least_of_some(least[k & 1], q, rest);
            else if (is_wide) least[k & 1] = least_of(least[k & 1], q);
            else least[k & 1] |= (words)q - 1;
            if (is_rest) break;
        }
    }
    memcpy(a->sum, sum, sizeof sum);
    memcpy(a->square, square, sizeof square);
    a->fourth = fourth[0] + fourth[1];
    a->least = is_wide ? (least[0] - 1) | (least[1] - 1) : least[0] | least[1];
}

#if HAS_WIDE
enum { THIRD = PARTS * 2 / 3 };

/* The first `count` eights of a third of a block. */
AVX2 INLINE void add_third(__m256 *sum, __m256 *square, __m256 *fourth, __m256i *least, int count,
                           const uint8_t *at, const float *sign, enum kind kind) {
    __m256 fourths = _mm256_setzero_ps(); /* of its own, lest each wait for the one before */
#pragma GCC unroll 6
    for (int k = 0; k < THIRD; k++) {
        if (k >= count) break;
        __m256 v = load_eight(at + k * 8 * WIDTH[kind], kind), q = _mm256_mul_ps(v, v);
        sum[k] = _mm256_fmadd_ps(v, _mm256_load_ps(sign + k * 8), sum[k]);
        square[k] = _mm256_add_ps(square[k], q);
        fourths = _mm256_fmadd_ps(q, q, fourths);
        *least = _mm256_min_epu32(*least, (__m256i)q);
    }
    *fourth = _mm256_add_ps(*fourth, fourths);
}

/* `add_blocks` for AVX2, whose registers hold the sums of a third of a block: three times over a
   run, which is in the first cache after the first. */
AVX2 static inline void add_thirds(struct sums *a, const uint8_t *at, int64_t blocks, int vectors,
                                   int64_t block, const uint8_t *signs, enum kind kind) {
    __m256 fourth = _mm256_setzero_ps();
    __m256i least = _mm256_set1_epi32(INT32_MAX);
    for (int third = 0; third < BLOCK; third += THIRD * 8) {
        __m256 sum[THIRD], square[THIRD];
        for (int k = 0; k < THIRD; k++) sum[k] = square[k] = _mm256_setzero_ps();
        const uint8_t *from = at + third * WIDTH[kind];
        for (int64_t b = block; b < block + blocks; b++, from += BLOCK * WIDTH[kind]) {
            for (int i = 0; third == 0 && i < BLOCK * WIDTH[kind]; i += 64) __builtin_prefetch(from + AHEAD + i);
            add_third(sum, square, &fourth, &least, THIRD, from, factors_at(signs, b) + third, kind);
        }
        if (2 * vectors > third / 8)
            add_third(sum, square, &fourth, &least, 2 * vectors - third / 8, from,
                      factors_at(signs, block + blocks) + third, kind);
        memcpy(a->sum + third, sum, sizeof sum);
        memcpy(a->square + third, square, sizeof square);
    }
    __m256i below = _mm256_sub_epi32(least, _mm256_set1_epi32(1));
    memset(&a->fourth, 0, sizeof a->fourth);
    memcpy(&a->fourth, &fourth, sizeof fourth);
    memset(&a->least, 0, sizeof a->least);
    memcpy(&a->least, &below, sizeof below);
}
#else
#define add_thirds(a, at, blocks, vectors, block, signs, kind) add_blocks(a, at, blocks, vectors, 0, block, signs, kind, PLAIN)
#endif

/* Fewer values than a block, from any place in it on. */
INLINE void add_part(struct sums *a, const uint8_t *at, int64_t n, int64_t col, const uint8_t *signs,
                     enum kind kind, enum width width) {
    const float *sign = factors_at(signs, col / BLOCK);
    int64_t place = col % BLOCK;
    while (n > 0) {
        int64_t skip = place % LANES, take = LANES - skip;
        int64_t k = place - skip;
        lanes v;
        if (take <= n && skip == 0) {
            v = load_as(at, kind, width);
        } else {
            if (take > n) take = n;
            uint8_t padded[LANES * 8] = {0};
            memcpy(padded + skip * WIDTH[kind], at, (size_t)(take * WIDTH[kind]));
            v = load_as(padded, kind, width);
        }
        lanes q = v * v;
        *(lanes *)(a->sum + k) += v * *(const lanes *)(sign + k);
        *(lanes *)(a->square + k) += q;
        a->fourth += q * q;
        words lowest = (words)q - 1;
        for (int i = 0; take < LANES && i < LANES; i++)
            if (i < skip || i >= skip + take) lowest[i] = 0;
        a->least |= lowest;
        at += take * WIDTH[kind];
        place += take;
        n -= take;
    }
}

/* Follows whether all values that are not zero are the same: real weights end it at once. */
INLINE void add_common(const struct state *s, const struct run *r, enum kind kind) {
    for (int64_t i = 0; i < r->n && !isnan(*s->common); i++) {
        double x = (double)one(r->at + i * WIDTH[kind], kind) * r->factor;
        if (x == 0 || !(fabs(x) <= LARGEST)) continue;
        if (*s->common == 0) *s->common = x;
        else if (*s->common != x) *s->common = NAN;
    }
}

/* How many values are zero, of either sign; counted in as few bits as compilers can do many of. */
INLINE int64_t zeros_in(const uint8_t *at, int64_t n, enum kind kind) {
    int64_t count = 0;
    while (n > 0) {
        int some = n < 255 ? (int)n : 255;
        uint8_t small = 0, mask = kind == I8 || kind == U8 ? 0xff : 0x7f;
        uint16_t half, halves_ = 0;
        uint32_t word, words_ = 0;
        for (int i = 0; WIDTH[kind] == 1 && i < some; i++) small += (at[i] & mask) == 0;
        for (int i = 0; WIDTH[kind] == 2 && i < some; i++) {
            memcpy(&half, at + 2 * i, sizeof half);
            halves_ += (half & 0x7fff) == 0;
        }
        for (int i = 0; WIDTH[kind] == 4 && i < some; i++) {
            memcpy(&word, at + 4 * i, sizeof word);
            words_ += (word & 0x7fffffff) == 0;
        }
        for (int i = 0; kind == F64 && i < some; i++) words_ += one(at + 8 * i, F64) == 0;
        count += small + halves_ + words_;
        at += some * WIDTH[kind];
        n -= some;
    }
    return count;
}

/* Adds four columns' sums and squares, the groups of a block added up, to their doubles; returns the squares. */
INLINE quads move_four(const struct sums *a, int i, double *core, double *cols, double scale, double squared) {
    four sum = {0}, square = {0}, part;
    quads into;
    for (int g = 0; g < GROUPS; g++) {
        memcpy(&part, a->sum + g * SIDE + i, sizeof part);
        sum += part;
        memcpy(&part, a->square + g * SIDE + i, sizeof part);
        square += part;
    }
    memcpy(&into, core + i, sizeof into);
    into += scale * __builtin_convertvector(sum, quads);
    memcpy(core + i, &into, sizeof into);
    quads energy = squared * __builtin_convertvector(square, quads);
    memcpy(&into, cols + i, sizeof into);
    into += energy;
    memcpy(cols + i, &into, sizeof into);
    return energy;
}

#if HAS_WIDE
/* Sixteen columns of a block, its groups added up; vectors are read as they were stored, and then shifted,
   as others would wait for the stores. */
AVX512 static inline __m512 grouped(const float *at) {
    const __m512i *v = (const __m512i *)at;
    __m512 first = (__m512)v[0], second = (__m512)_mm512_alignr_epi32(v[3], v[2], SIDE % LANES);
    __m512 third = (__m512)_mm512_alignr_epi32(v[5], v[4], 2 * SIDE % LANES);
    __m512 fourth = (__m512)_mm512_alignr_epi32(v[7], v[6], 3 * SIDE % LANES);
    return _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(first, second), third), fourth);
}

/* `move_four` of eight. */
AVX512 static inline __m512d move_eight(__m256 sum, __m256 square, double *core, double *cols, __m512d scale,
                                        __m512d squared) {
    __m512d energy = _mm512_mul_pd(squared, _mm512_cvtps_pd(square));
    _mm512_storeu_pd(core, _mm512_fmadd_pd(scale, _mm512_cvtps_pd(sum), _mm512_loadu_pd(core)));
    _mm512_storeu_pd(cols, _mm512_add_pd(energy, _mm512_loadu_pd(cols)));
    return energy;
}

AVX512 static inline double move_wide(const struct sums *a, double *core, double *cols, double scale, double squared) {
    __m512d scales = _mm512_set1_pd(scale), squares = _mm512_set1_pd(squared), energy = _mm512_setzero_pd();
#pragma GCC unroll 2
    for (int i = 0; i < 2 * LANES; i += LANES) {
        __m512 sum = grouped(a->sum + i), square = grouped(a->square + i);
        __m256 low = _mm512_castps512_ps256(sum), low_square = _mm512_castps512_ps256(square);
        __m256 high = _mm512_extractf32x8_ps(sum, 1), high_square = _mm512_extractf32x8_ps(square, 1);
        energy = _mm512_add_pd(energy, move_eight(low, low_square, core + i, cols + i, scales, squares));
        energy = _mm512_add_pd(energy, move_eight(high, high_square, core + i + 8, cols + i + 8, scales, squares));
    }
    quads last = move_four(a, 2 * LANES, core, cols, scale, squared);
    last += (quads)_mm256_add_pd(_mm512_castpd512_pd256(energy), _mm512_extractf64x4_pd(energy, 1));
    return last[0] + last[1] + last[2] + last[3];
}
#else
#define move_wide(a, core, cols, scale, squared) 0
#endif

/* Moves a run's sums into doubles. */
INLINE void move_up(const struct state *s, const struct run *r, const struct sums *a, double fourth,
                    int64_t zeros, enum width width) {
    double squared = r->factor * r->factor, scale = r->factor * r->row_sign, *core = s->core + r->bucket * SIDE;
    if (width == WIDE) {
        s->rows[r->bucket] += move_wide(a, core, s->cols, scale, squared);
    } else {
        quads energy = {0};
        for (int i = 0; i < SIDE; i += 4) energy += move_four(a, i, core, s->cols, scale, squared);
        s->rows[r->bucket] += energy[0] + energy[1] + energy[2] + energy[3];
    }
    *s->fourth += squared * squared * fourth;
    *s->zeros += (double)zeros;
}

INLINE double sum_of(lanes x) {
    quads sums = {0};
    for (int i = 0; i < LANES; i += 4) {
        four part;
        memcpy(&part, (const float *)&x + i, sizeof part);
        sums += __builtin_convertvector(part, quads);
    }
    return sums[0] + sums[1] + sums[2] + sums[3];
}

/* Adds a run of at most FLUSH blocks in float, then moves the sums into doubles. Where a fourth
   power is not finite, or all are too small for float, the run is done again slowly. */
INLINE void add_run(const struct state *s, const struct run *r, enum kind kind, enum width width) {
    add_common(s, r, kind);
    int is_native = width != PLAIN && kind != E4M3; /* its loads know infinities and NaNs */
    if (!is_native && has_special(r->at, r->n, kind)) {
        add_slowly(s, r, kind);
        return;
    }
    struct sums a;
    int64_t head = (BLOCK - r->col % BLOCK) % BLOCK;
    if (head > r->n) head = r->n;
    int64_t blocks = (r->n - head) / BLOCK, tail = r->n - head - blocks * BLOCK;
    const uint8_t *at = r->at;
    int vectors = (int)(tail / LANES), rest = (int)(tail % LANES);
    const uint8_t *body = at + head * WIDTH[kind];
    int64_t block = (r->col + head) / BLOCK;
    if (width == EIGHT) add_thirds(&a, body, blocks, vectors, block, r->signs, kind);
    else add_blocks(&a, body, blocks, vectors, rest, block, r->signs, kind, width);
    if (head) add_part(&a, at, head, r->col, r->signs, kind, width);
    at += (r->n - rest) * WIDTH[kind];
    if (rest && width != WIDE) add_part(&a, at, rest, r->col + r->n - rest, r->signs, kind, width);

    double fourth = width == WIDE ? sum_wide(a.fourth) : sum_of(a.fourth);
    int lowest = width == WIDE ? least_sign(a.least) : 0;
    for (int i = 0; width != WIDE && i < LANES; i++) lowest |= a.least[i];
    int64_t zeros = lowest < 0 ? zeros_in(r->at, r->n, kind) : 0;
    if (!(fourth < 0x1p100 && (fourth > 1e-34 * (double)r->n || zeros == r->n))) {
        add_slowly(s, r, kind);
        return;
    }
    move_up(s, r, &a, fourth, zeros, width);
}

INLINE void add_run_of(const struct state *s, const struct run *r, enum kind kind, enum width w) {
    switch (kind) {
    case F32: add_run(s, r, F32, w); break;
    case BF16: add_run(s, r, BF16, w); break;
    case F16: add_run(s, r, F16, w); break;
    case F64: add_run(s, r, F64, w); break;
    case I8: add_run(s, r, I8, w); break;
    case U8: add_run(s, r, U8, w); break;
    case E4M3: add_run(s, r, E4M3, w); break;
    default: add_run(s, r, E5M2, w); break;
    }
}

typedef void (*adder)(const struct state *, const struct run *, enum kind);

static void add_run_plain(const struct state *s, const struct run *r, enum kind k) {
    add_run_of(s, r, k, PLAIN);
}
static adder add_run_best = add_run_plain;

#if HAS_WIDE
AVX2 static void add_run_avx2(const struct state *s, const struct run *r, enum kind k) {
    add_run_of(s, r, k, EIGHT);
}
AVX512 static void add_run_avx512(const struct state *s, const struct run *r, enum kind k) {
    add_run_of(s, r, k, WIDE);
}
#endif
