/* The inner loops of the sketch: one pass over raw bytes while they are in cache. And what brings bytes
   there for who hashes them next.

   `lineage/fingerprints/folding.py` is the same arithmetic in NumPy and is used where this file
   could not be compiled; the two agree within rounding. Nothing here decides anything: names,
   shapes, formats and hashes stay in Python.

   Source of the half-precision conversions: the bit layouts of IEEE 754 binary16, bfloat16, and
   of the OCP 8-bit floating point specification (E4M3, E5M2). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#define HAS_WIDE 1
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define AVX2 __attribute__((target("avx2,fma,f16c")))
#else
#define HAS_WIDE 0
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi" /* vectors never cross a call: all is inlined */
#endif

enum { AHEAD = 2048 }; /* bytes: how far ahead of the loop memory is asked for */
enum { LINE = 64 };    /* bytes of a line of the cache; some processors have longer ones */
enum { SIDE = 36, GROUPS = 4, BLOCK = GROUPS * SIDE, LANES = 16, PARTS = BLOCK / LANES, FLUSH = 256 };

/* Which loops run: portable ones, those for AVX2, those for AVX-512. */
enum width { PLAIN, EIGHT, WIDE };

enum kind { F32, BF16, F16, F64, I8, U8, E4M3, E5M2, KINDS };
static const Py_ssize_t WIDTH[KINDS] = {4, 2, 2, 8, 1, 1, 1, 1};

static const Py_ssize_t WORTH_SHARING = 1 << 19; /* bytes */
static const double LARGEST = 0x1p40;

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t words __attribute__((vector_size(4 * LANES)));
typedef uint32_t uwords __attribute__((vector_size(4 * LANES)));
typedef int16_t shorts __attribute__((vector_size(2 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef uint16_t pairs __attribute__((vector_size(4 * LANES)));
typedef int8_t bytes_ __attribute__((vector_size(LANES)));
typedef uint8_t ubytes __attribute__((vector_size(LANES)));
typedef float four __attribute__((vector_size(16)));
typedef double quads __attribute__((vector_size(32)));
typedef double doubles __attribute__((vector_size(8 * LANES)));

#define INLINE static inline __attribute__((always_inline))

/* A smaller float of finite value to float: shift into place, add the difference of the biases; a
   subnormal gets an exponent first and is then pulled back by it. */
INLINE lanes from_small(words magnitude, words sign, int bias) {
    words normal = magnitude + (bias << 23);
    words pull = (words){} + ((bias + 1) << 23);
    words subnormal = (words)((lanes)(magnitude + pull) - (lanes)pull);
    words is_low = magnitude < (1 << 23);
    return (lanes)((is_low & subnormal) | (~is_low & normal) | sign);
}

/* Sixteen-bit values into the upper halves of words: one shuffle, where widening takes three. */
INLINE words raised(halves low) {
    halves zero = {0};
    return (words)__builtin_shufflevector(zero, low, 0, 16, 0, 17, 0, 18, 0, 19, 0, 20, 0, 21, 0, 22,
                                          0, 23, 0, 24, 0, 25, 0, 26, 0, 27, 0, 28, 0, 29, 0, 30, 0, 31);
}

/* The lower halves of words. */
INLINE halves lowered(uwords wide) {
    pairs all = (pairs)wide;
    return __builtin_shufflevector(all, all, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}

INLINE lanes load(const uint8_t *at, enum kind kind) {
    lanes out;
    halves half;
    if (kind == F32) {
        memcpy(&out, at, sizeof out);
    } else if (kind == BF16 || kind == F16) {
        memcpy(&half, at, sizeof half);
        words high = raised(half);
        if (kind == BF16) return (lanes)high;
        words magnitude = (words)((uwords)(high & 0x7fff0000) >> 3);
        out = from_small(magnitude, high & INT32_MIN, 112);
    } else if (kind == F64) {
        doubles wide;
        memcpy(&wide, at, sizeof wide);
        out = __builtin_convertvector(wide, lanes);
    } else if (kind == I8) {
        bytes_ small;
        memcpy(&small, at, sizeof small);
        out = __builtin_convertvector(raised((halves)__builtin_convertvector(small, shorts)) >> 16, lanes);
    } else {
        ubytes small;
        memcpy(&small, at, sizeof small);
        words high = raised(__builtin_convertvector(small, halves));
        if (kind == U8) return __builtin_convertvector(high >> 16, lanes);
        words magnitude = (high & 0x7f0000) << (kind == E4M3 ? 4 : 5);
        out = from_small(magnitude, high << 8 & INT32_MIN, kind == E4M3 ? 120 : 112);
    }
    return out;
}

/* Where AVX-512 is, its own widening loads are shorter than what compilers make of the above. */
#if HAS_WIDE
AVX512 static inline lanes load_wide(const uint8_t *at, enum kind kind) {
    if (kind == BF16) {
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)at));
        return (lanes)_mm512_slli_epi32(wide, 16);
    }
    if (kind == F16) return (lanes)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)at));
    if (kind == I8) return (lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)at)));
    if (kind == U8) return (lanes)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)at)));
    if (kind == E4M3 || kind == E5M2) {
        words code = (words)_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)at));
        if (kind == E5M2) return (lanes)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)(code << 8)));
        return from_small((code & 0x7f) << 20, (code & 0x80) << 24, 120);
    }
    return load(at, kind);
}

/* The first `count` values, fewer than a vector has; zeros behind them. */
AVX512 static inline lanes load_some(const uint8_t *at, int count, enum kind kind) {
    const unsigned mask = (1u << count) - 1;
    if (kind == F32) return (lanes)_mm512_maskz_loadu_ps((__mmask16)mask, at);
    uint8_t padded[8 * LANES];
    if (WIDTH[kind] == 1) {
        _mm_storeu_si128((void *)padded, _mm_maskz_loadu_epi8((__mmask16)mask, at));
    } else if (WIDTH[kind] == 2) {
        _mm256_storeu_si256((void *)padded, _mm256_maskz_loadu_epi16((__mmask16)mask, at));
    } else {
        _mm512_storeu_pd(padded, _mm512_maskz_loadu_pd((__mmask8)mask, at));
        _mm512_storeu_pd(padded + 64, _mm512_maskz_loadu_pd((__mmask8)(mask >> 8), at + 64));
    }
    return load_wide(padded, kind);
}

AVX512 static inline words least_of(words least, lanes square) {
    return (words)_mm512_min_epu32((__m512i)least, (__m512i)square);
}

/* The same of the first `count` places. */
AVX512 static inline words least_of_some(words least, lanes square, int count) {
    return (words)_mm512_mask_min_epu32((__m512i)least, (__mmask16)((1u << count) - 1), (__m512i)least, (__m512i)square);
}

AVX512 static inline double sum_wide(lanes x) {
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)x));
    return _mm512_reduce_add_pd(_mm512_add_pd(low, _mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)x, 1))));
}

AVX512 static inline int least_sign(words least) { return _mm512_movepi32_mask((__m512i)least) ? -1 : 0; }

/* Where only AVX2 is, compilers take vectors of sixteen apart value by value to shuffle them. */
AVX2 static inline __m256 load_eight(const uint8_t *at, enum kind kind) {
    if (kind == F32) return _mm256_loadu_ps((const void *)at);
    if (kind == F64)
        return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd((const void *)(at + 32))),
                               _mm256_cvtpd_ps(_mm256_loadu_pd((const void *)at)));
    if (kind == BF16)
        return (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)at)), 16);
    if (kind == F16) return _mm256_cvtph_ps(_mm_loadu_si128((const void *)at));
    __m128i code = _mm_loadl_epi64((const void *)at);
    if (kind == I8) return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(code));
    if (kind == U8) return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(code));
    if (kind == E5M2) return _mm256_cvtph_ps(_mm_unpacklo_epi8(_mm_setzero_si128(), code));
    __m256i wide = _mm256_cvtepu8_epi32(code);
    __m256i magnitude = _mm256_slli_epi32(_mm256_and_si256(wide, _mm256_set1_epi32(0x7f)), 20);
    __m256i sign = _mm256_slli_epi32(_mm256_and_si256(wide, _mm256_set1_epi32(0x80)), 24);
    /* as `from_small` */
    __m256 pull = (__m256)_mm256_set1_epi32(121 << 23);
    __m256 low = _mm256_sub_ps((__m256)_mm256_add_epi32(magnitude, (__m256i)pull), pull);
    __m256 normal = (__m256)_mm256_add_epi32(magnitude, _mm256_set1_epi32(120 << 23));
    __m256i is_low = _mm256_cmpgt_epi32(_mm256_set1_epi32(1 << 23), magnitude);
    return _mm256_or_ps(_mm256_blendv_ps(normal, low, (__m256)is_low), (__m256)sign);
}

AVX2 static inline lanes load_eights(const uint8_t *at, enum kind kind) {
    __m256 both[2] = {load_eight(at, kind), load_eight(at + 8 * WIDTH[kind], kind)};
    lanes out;
    memcpy(&out, both, sizeof out);
    return out;
}

AVX2 static inline halves lower_eights(uwords wide) {
    __m256i both[2];
    halves out;
    memcpy(both, &wide, sizeof both);
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(both[0], both[1]), 0xd8);
    memcpy(&out, &packed, sizeof out);
    return out;
}
#else
#define load_wide load
#define load_eights load
#define lower_eights lowered
#define load_some(at, count, kind) load(at, kind)
#define least_of(least, square) (least)
#define least_of_some(least, square, count) (least)
#define sum_wide(x) 0
#define least_sign(least) 0
#endif

INLINE lanes load_as(const uint8_t *at, enum kind kind, enum width width) {
    return width == WIDE ? load_wide(at, kind) : width == EIGHT ? load_eights(at, kind) : load(at, kind);
}

/* Whether a run of a small dtype holds an infinity or a NaN, which `load` takes for numbers. */
INLINE int has_special(const uint8_t *at, int64_t n, enum kind kind) {
    uint8_t found = 0;
    if (kind == F16)
        for (int64_t i = 0; i < n; i++) found |= (at[2 * i + 1] & 0x7c) == 0x7c;
    if (kind == E4M3)
        for (int64_t i = 0; i < n; i++) found |= (at[i] & 0x7f) == 0x7f;
    if (kind == E5M2)
        for (int64_t i = 0; i < n; i++) found |= (at[i] & 0x7c) == 0x7c;
    return found;
}

/* One value; the same conversion through a padded load, since this is not where time goes. */
static float one(const uint8_t *at, enum kind kind) {
    if (has_special(at, 1, kind)) return NAN;
    uint8_t padded[8 * LANES] = {0};
    memcpy(padded, at, (size_t)WIDTH[kind]);
    switch (kind) {
    case F32: return load(padded, F32)[0];
    case BF16: return load(padded, BF16)[0];
    case F16: return load(padded, F16)[0];
    case F64: return load(padded, F64)[0];
    case I8: return load(padded, I8)[0];
    case U8: return load(padded, U8)[0];
    case E4M3: return load(padded, E4M3)[0];
    default: return load(padded, E5M2)[0];
    }
}

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

/* ggml's blocks of quantized numbers, unpacked a few at a time and added as floats. Products of a
   scale and a code fit a float's digits, so that there is one result whoever computes it.

   Source: dequantize_row_* in ggml-quants.c of ggml, https://github.com/ggml-org/ggml. */

enum block { Q4_0 = KINDS, Q4_1, Q8_0, Q4_K, Q5_K, Q6_K, BLOCK_KINDS };
static const int BLOCK_VALUES[] = {32, 32, 32, 256, 256, 256};
static const int BLOCK_BYTES[] = {18, 20, 34, 144, 176, 210};

enum { UNPACKED = 8192 }; /* floats at once: they stay in the first cache */

INLINE float half_at(const uint8_t *at) {
    uint32_t code = at[0] | (uint32_t)at[1] << 8, magnitude = (code & 0x7fff) << 13;
    float number = (float)(code & 0x3ff) * 0x1p-24f; /* a subnormal */
    if ((code & 0x7c00) == 0x7c00) return NAN;
    if (code & 0x7c00) magnitude += 112u << 23, memcpy(&number, &magnitude, sizeof number);
    return code & 0x8000 ? -number : number;
}

/* Eight 32s, each with a 6-bit scale and a 6-bit minimum; of Q5_K the fifth bits come first. */
INLINE void unpack_k(const uint8_t *at, float *out, int has_fifth) {
    float scale = half_at(at), minimum = half_at(at + 2);
    const uint8_t *packed = at + 4, *fifth = at + 16, *low = at + (has_fifth ? 48 : 16);
    for (int j = 0; j < 8; j++, out += 32) {
        int six = j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4);
        int off = j < 4 ? packed[j + 4] & 63 : packed[j + 4] >> 4 | packed[j] >> 6 << 4;
        float step = scale * (float)six, least = minimum * (float)off;
        for (int i = 0; i < 32; i++) {
            int code = low[j / 2 * 32 + i] >> (j % 2 * 4) & 15;
            if (has_fifth) code |= (fifth[i] >> j & 1) << 4;
            out[i] = (float)code * step - least;
        }
    }
}

INLINE void unpack_q6_k(const uint8_t *at, float *out) {
    float scale = half_at(at + 208);
    for (int j = 0; j < 16; j++, out += 16) {
        const uint8_t *low = at + j / 8 * 64 + j % 4 * 16, *high = at + 128 + j / 8 * 32 + j % 2 * 16;
        float step = scale * (float)(int8_t)at[192 + j];
        for (int i = 0; i < 16; i++) {
            int code = (low[i] >> (j % 8 / 4 * 4) & 15) | (high[i] >> (j % 8 / 2 * 2) & 3) << 4;
            out[i] = (float)(code - 32) * step;
        }
    }
}

INLINE void unpack_32(const uint8_t *at, float *out, enum block block) {
    float scale = half_at(at), least = block == Q4_1 ? half_at(at + 2) : 0;
    const uint8_t *codes = at + (block == Q4_1 ? 4 : 2);
    if (block == Q8_0) {
        for (int i = 0; i < 32; i++) out[i] = (float)(int8_t)codes[i] * scale;
        return;
    }
    int middle = block == Q4_0 ? 8 : 0;
    for (int i = 0; i < 32; i++) {
        int code = (codes[i % 16] >> (i / 16 * 4) & 15) - middle;
        out[i] = (float)code * scale + least;
    }
}

INLINE void unpack_of(const uint8_t *at, int64_t count, float *out, enum block block) {
    int values = BLOCK_VALUES[block - KINDS], size = BLOCK_BYTES[block - KINDS];
    for (int64_t i = 0; i < count; i++, at += size, out += values) {
        if (block == Q4_K || block == Q5_K) unpack_k(at, out, block == Q5_K);
        else if (block == Q6_K) unpack_q6_k(at, out);
        else unpack_32(at, out, block);
    }
}

INLINE void unpack(const uint8_t *at, int64_t count, float *out, enum block block) {
    switch (block) {
    case Q4_0: unpack_of(at, count, out, Q4_0); break;
    case Q4_1: unpack_of(at, count, out, Q4_1); break;
    case Q8_0: unpack_of(at, count, out, Q8_0); break;
    case Q4_K: unpack_of(at, count, out, Q4_K); break;
    case Q5_K: unpack_of(at, count, out, Q5_K); break;
    default: unpack_of(at, count, out, Q6_K); break;
    }
}

typedef void (*unpacker)(const uint8_t *, int64_t, float *, enum block);
static void unpack_plain(const uint8_t *at, int64_t count, float *out, enum block block) {
    unpack(at, count, out, block);
}
static unpacker unpack_best = unpack_plain;

#if HAS_WIDE
AVX2 static void unpack_avx2(const uint8_t *at, int64_t count, float *out, enum block block) {
    unpack(at, count, out, block);
}
#endif

static void add_unpacked(const struct state *s, const struct view *v, const uint8_t *data, int64_t blocks,
                         int64_t start, enum block block, const uint8_t *signs) {
    float numbers[UNPACKED];
    int64_t values = BLOCK_VALUES[block - KINDS], most = UNPACKED / values;
    while (blocks > 0) {
        int64_t some = blocks < most ? blocks : most;
        unpack_best(data, some, numbers, block);
        add_all(s, v, (const uint8_t *)numbers, some * values, start, F32, signs);
        data += some * BLOCK_BYTES[block - KINDS];
        start += some * values;
        blocks -= some;
    }
}

PyDoc_STRVAR(add_doc,
"add(state, data, kind, start, signs, stride, row0, row1, col0, col1, side, every, factors)\n\n"
"Add raw values to a sketch's sums. `state` is float64: core (side * 36), rows (side), cols (36),\n"
"fourth, zeros, left out, and the value that all non-zero ones share (0 while none is known, NaN\n"
"once two differ). `data` holds whole values of `kind` from value `start` of the\n"
"tensor on. Rows `row0` to `row1` and columns `col0` to `col1` of the matrix with `stride` columns\n"
"are taken, of them every `every`-th block of `side` rows. `factors` is None or float32: one, or\n"
"one per row of the whole matrix.");

static PyObject *add(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer state, data, signs, factors = {0};
    int kind;
    long long start, stride, row0, row1, col0, col1;
    int side, every;
    PyObject *scaled;
    if (!PyArg_ParseTuple(args, "w*y*iLy*LLLLLiiO", &state, &data, &kind, &start, &signs, &stride,
                          &row0, &row1, &col0, &col1, &side, &every, &scaled))
        return NULL;
    struct view v = {stride, row0, row1, col0, col1, side, every, NULL, 0};
    if (scaled != Py_None) {
        if (PyObject_GetBuffer(scaled, &factors, PyBUF_SIMPLE) < 0) goto done;
        v.factors = factors.buf;
        v.factor_count = factors.len / (Py_ssize_t)sizeof(float);
    }
    int64_t rows = row1 - row0, cols = col1 - col0;
    int is_known = kind >= 0 && kind < BLOCK_KINDS, is_packed = kind >= KINDS;
    Py_ssize_t unit = !is_known ? 1 : is_packed ? BLOCK_BYTES[kind - KINDS] : WIDTH[kind];
    if (!is_known || stride < 1 || side < 1 || every < 1 || start < 0 || row0 < 0 ||
        rows < 0 || col0 < 0 || cols < 0 || col1 > stride || data.len % unit ||
        state.len != (Py_ssize_t)sizeof(double) * (side * SIDE + side + SIDE + 4) ||
        (v.factors && v.factor_count != 1 && v.factor_count < row1) ||
        signs.len < cols / BLOCK / 2 + 2 || signs.len < rows / side / 8 + 1) {
        PyErr_SetString(PyExc_ValueError, "the parts of a sketch do not fit together");
        goto done;
    }
    double *at = state.buf;
    double *after = at + side * SIDE + side + SIDE;
    struct state s = {at, at + side * SIDE, at + side * SIDE + side, after, after + 1, after + 2, after + 3};
    /* Handing the interpreter over and taking it back costs more than a small tensor does. */
    PyThreadState *others = data.len >= WORTH_SHARING ? PyEval_SaveThread() : NULL;
    if (is_packed) add_unpacked(&s, &v, data.buf, data.len / unit, start, (enum block)kind, signs.buf);
    else add_all(&s, &v, data.buf, data.len / unit, start, (enum kind)kind, signs.buf);
    if (others) PyEval_RestoreThread(others);
done:
    if (factors.obj) PyBuffer_Release(&factors);
    PyBuffer_Release(&state);
    PyBuffer_Release(&data);
    PyBuffer_Release(&signs);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

/* Rounding to narrower dtypes, to nearest, ties to even. Each returns the codes, and
   marks in `lost` what it does not hold bit for bit (NaNs are never held). */

INLINE uwords to_bf16(uwords u, uwords *lost) {
    uwords magnitude = u & 0x7fffffff;
    *lost |= (u & 0xffff) | ((0x7f800000 - magnitude) & 0x80000000);
    return (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}

INLINE uwords to_f16(uwords u, uwords *lost) {
    uwords magnitude = u & 0x7fffffff, sign = (u >> 16) & 0x8000;
    uwords normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
    lanes half = (lanes)((uwords){} + 0x3f000000u);
    uwords low = (uwords)((lanes)magnitude + half) - 0x3f000000u;
    uwords is_low = (uwords)(magnitude < (113u << 23));
    uwords is_high = (uwords)(magnitude >= 0x477ff000u);
    uwords code = (is_low & low) | (~is_low & normal);
    code = (is_high & 0x7c00) | (~is_high & code);
    words back = (words)(code << 13);
    uwords again = (uwords)from_small(back, (words)(sign << 16), 112);
    again = (is_high & ((sign << 16) | 0x7f800000)) | (~is_high & again);
    *lost |= again ^ u;
    return code | sign;
}

INLINE uwords to_e5m2(uwords u, uwords *lost) {
    uwords code = to_f16(u, lost);
    *lost |= code & 0xff;
    return code >> 8;
}

INLINE uwords to_e4m3(uwords u, uwords *lost) {
    uwords magnitude = u & 0x7fffffff, sign = (u >> 24) & 0x80;
    uwords normal = (magnitude - (120u << 23)) >> 20;
    lanes least = (lanes)((uwords){} + 0x46800000u); /* 2^14, whose last place is E4M3's least */
    uwords low = (uwords)((lanes)magnitude + least) - 0x46800000u;
    uwords is_low = (uwords)(magnitude < (121u << 23));
    uwords code = (is_low & low) | (~is_low & normal);
    uwords is_high = (uwords)(magnitude > 0x43e00000u); /* 448 */
    code = (is_high & 0x7e) | (~is_high & code);
    uwords again = (uwords)from_small((words)(code << 20), (words)(sign << 24), 120);
    *lost |= again ^ u;
    return code | sign;
}

enum { CHUNK = 1024 };

INLINE uwords to_narrow(uwords u, enum kind to, uwords *lost) {
    if (to == BF16) return to_bf16(u, lost);
    if (to == F16) return to_f16(u, lost);
    if (to == E4M3) return to_e4m3(u, lost);
    return to_e5m2(u, lost);
}

/* Gives the infinities and NaNs back that `load` takes for numbers above the dtype's largest. */
INLINE uwords with_special(uwords u, enum kind from) {
    if (from != F16 && from != E4M3) return u;
    uint32_t first = from == F16 ? 0x47800000u : 0x43f00000u; /* 2^16; 480, which is E4M3's NaN */
    uwords is_special = (uwords)((words)(u & 0x7fffffff) >= (words){} + (int32_t)first);
    return u | (is_special & (from == F16 ? 0x7f800000u : 0x7fc00000u));
}

INLINE int narrow_run(const uint8_t *data, int64_t n, enum kind from, enum kind to, uint8_t *out,
                      int only_exact, enum width width) {
    int all = 1;
    for (int64_t start = 0; start < n; start += CHUNK) {
        int64_t end = start + CHUNK < n ? start + CHUNK : n;
        uwords lost = {0};
        for (int64_t i = start; i < end; i += LANES) {
            uint8_t part[8 * LANES] = {0};
            const uint8_t *at = data + i * WIDTH[from];
            int64_t take = end - i < LANES ? end - i : LANES;
            if (take < LANES) {
                memcpy(part, at, (size_t)(take * WIDTH[from]));
                at = part;
            }
            uwords raw = (uwords)(width == EIGHT ? load_eights(at, from) : load(at, from));
            uwords code = to_narrow(with_special(raw, from), to, &lost);
            if (!out) continue;
            uint8_t packed[2 * LANES];
            halves two = width == EIGHT ? lower_eights(code) : lowered(code);
            if (WIDTH[to] == 2) {
                memcpy(packed, &two, sizeof two);
            } else {
                ubytes single = __builtin_convertvector(two, ubytes);
                memcpy(packed, &single, sizeof single);
            }
            if (take == LANES) memcpy(out + i * WIDTH[to], packed, (size_t)(LANES * WIDTH[to]));
            else memcpy(out + i * WIDTH[to], packed, (size_t)(take * WIDTH[to]));
        }
        for (int k = 0; k < LANES; k++) all &= lost[k] == 0;
        if (only_exact && !all) return 0;
    }
    return all;
}

INLINE int narrow_from(const uint8_t *d, int64_t n, enum kind from, enum kind to, uint8_t *o, int x,
                       enum width w) {
    switch (to) {
    case BF16: return narrow_run(d, n, from, BF16, o, x, w);
    case F16: return narrow_run(d, n, from, F16, o, x, w);
    case E4M3: return narrow_run(d, n, from, E4M3, o, x, w);
    default: return narrow_run(d, n, from, E5M2, o, x, w);
    }
}

INLINE int narrow_of(const uint8_t *d, int64_t n, enum kind from, enum kind to, uint8_t *o, int x,
                       enum width w) {
    switch (from) {
    case F32: return narrow_from(d, n, F32, to, o, x, w);
    case BF16: return narrow_from(d, n, BF16, to, o, x, w);
    case F16: return narrow_from(d, n, F16, to, o, x, w);
    default: return narrow_from(d, n, E4M3, to, o, x, w);
    }
}

typedef int (*narrower)(const uint8_t *, int64_t, enum kind, enum kind, uint8_t *, int);
static int narrow_plain(const uint8_t *d, int64_t n, enum kind f, enum kind t, uint8_t *o, int x) {
    return narrow_of(d, n, f, t, o, x, PLAIN);
}
static narrower narrow_best = narrow_plain;

#if HAS_WIDE
AVX2 static int narrow_avx2(const uint8_t *d, int64_t n, enum kind f, enum kind t, uint8_t *o, int x) {
    return narrow_of(d, n, f, t, o, x, EIGHT);
}
AVX512 static int narrow_avx512(const uint8_t *d, int64_t n, enum kind f, enum kind t, uint8_t *o, int x) {
    return narrow_of(d, n, f, t, o, x, PLAIN);
}
#endif

PyDoc_STRVAR(narrow_doc,
"narrow(data, kind, to, out, only_exact) -> bool\n\n"
"Round values of `kind` to the narrower kind `to`, into `out` (None: only look), to nearest, ties\n"
"to even. Return whether every value survived bit for bit; NaNs never do. With `only_exact` it\n"
"stops, `out` half written, as soon as one did not.");

static PyObject *narrow(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data, out = {0};
    int kind, to, only_exact, all = 0;
    PyObject *into;
    if (!PyArg_ParseTuple(args, "y*iiOp", &data, &kind, &to, &into, &only_exact)) return NULL;
    if (into != Py_None && PyObject_GetBuffer(into, &out, PyBUF_WRITABLE) < 0) goto done;
    int from_known = kind == F32 || kind == BF16 || kind == F16 || kind == E4M3;
    int to_known = to == BF16 || to == F16 || to == E4M3 || to == E5M2;
    if (!from_known || !to_known || data.len % WIDTH[kind] ||
        (out.obj && out.len < data.len / WIDTH[kind] * WIDTH[to])) {
        PyErr_SetString(PyExc_ValueError, "no such rounding, or no room for it");
        goto done;
    }
    int64_t n = data.len / WIDTH[kind];
    if (only_exact && n > CHUNK && !narrow_best(data.buf, CHUNK, kind, to, out.buf, 1)) goto done;
    PyThreadState *others = data.len >= WORTH_SHARING ? PyEval_SaveThread() : NULL;
    all = narrow_best(data.buf, n, kind, to, out.buf, only_exact);
    if (others) PyEval_RestoreThread(others);
done:
    if (out.obj) PyBuffer_Release(&out);
    PyBuffer_Release(&data);
    if (PyErr_Occurred()) return NULL;
    return PyBool_FromLong(all);
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

/* A sketch's sums as floats, cut to `height` rows and `width` columns: core, rows and columns one after the
   other. Returns the squared norm. */
static double round_off(const double *at, int side, int height, int width, float *out) {
    const double *rows = at + side * SIDE, *cols = rows + side;
    double energy = 0;
    if (width == SIDE) to_floats_best(at, height * SIDE, out);
    else
        for (int i = 0; i < height; i++) to_floats_best(at + i * SIDE, width, out + i * width);
    to_floats_best(rows, height, out + height * width);
    to_floats_best(cols, width, out + height * width + height);
    for (int j = 0; j < SIDE; j++) energy += cols[j];
    return energy;
}

PyDoc_STRVAR(finish_doc,
"finish(state, side, height, width) -> (raw, energy)\n\n"
"Return a sketch's arrays as float32 bytes, one after the other: core, row and column energies, cut to\n"
"`height` rows and `width` columns; and the sum of the column energies.");

static PyObject *finish(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer state;
    int side, height, width;
    if (!PyArg_ParseTuple(args, "y*iii", &state, &side, &height, &width)) return NULL;
    float raw[SIDE * SIDE + SIDE + SIDE];
    if (side < 1 || side > SIDE || height < 0 || height > side || width < 0 || width > SIDE ||
        state.len != (Py_ssize_t)sizeof(double) * (side * SIDE + side + SIDE + 4)) {
        PyBuffer_Release(&state);
        PyErr_SetString(PyExc_ValueError, "the parts of a sketch do not fit together");
        return NULL;
    }
    double energy = round_off(state.buf, side, height, width, raw);
    PyBuffer_Release(&state);
    return Py_BuildValue("y#d", (char *)raw, (Py_ssize_t)(height * width + height + width) * 4, energy);
}

enum { RUN = 2 * LANES }; /* values of a short run, at most */

/* Values of a short run, as `one` gives each; behind them the first again. */
INLINE void convert(const uint8_t *at, int n, enum kind kind, enum width width, float *out) {
    int done = 0;
    if (!has_special(at, n, kind))
        for (; done + LANES <= n; done += LANES) {
            lanes some = load_as(at + done * WIDTH[kind], kind, width);
            memcpy(out + done, &some, sizeof some);
        }
    for (; done < n; done++) out[done] = one(at + done * WIDTH[kind], kind);
    for (; done < RUN; done++) out[done] = out[0];
}

INLINE float largest_of(lanes x) {
    float best[LANES];
    memcpy(best, &x, sizeof x);
    for (int some = LANES / 2; some; some /= 2)
        for (int i = 0; i < some; i++) best[i] = best[i] < best[i + some] ? best[i + some] : best[i];
    return best[0];
}

/* The least distance of sixteen values and sixteen others that are not the same, times 640: its bits, less
   one, as that puts a distance of none behind all others. */
INLINE uwords nearest(uwords known, lanes some, const float *others, enum width width) {
    lanes other;
    memcpy(&other, others, sizeof other);
    uwords distance = (uwords)((lanes)((words)(some - other) & INT32_MAX) * 640.0f) - 1;
    if (width == WIDE) return (uwords)least_of((words)known, (lanes)distance);
    uwords is_less = (uwords)(distance < known);
    return (distance & is_less) | (known & ~is_less);
}

/* Whether the distinct values of a short run keep apart as a quantizer's levels do: by half a step at least,
   where 255 steps are the most. Values of a continuous law rarely do. -1: nothing to see. All pairs are
   looked at: sixteen values at a time with those some places on. */
INLINE int keeps_apart(const uint8_t *at, int n, enum kind kind, enum width width) {
    float run[2 * RUN]; /* the first sixteen values twice, and then the second, so that places go round */
    lanes first, second;
    convert(at, n, kind, width, run + LANES);
    memcpy(&first, run + LANES, sizeof first);
    memcpy(&second, run + RUN, sizeof second);
    memcpy(run, &first, sizeof first);
    memcpy(run + RUN + LANES, &second, sizeof second);
    words is_more = first > second;
    words high = ((words)first & is_more) | ((words)second & ~is_more);
    words low = ((words)second & is_more) | ((words)first & ~is_more);
    const float reach = largest_of((lanes)high) + largest_of(-(lanes)low);
    if (!(reach > 0)) return -1;
    uwords near = ~(uwords){0}, limit = {0};
    for (int i = 1; i <= LANES / 2; i++) {
        near = nearest(near, first, run + i, width);
        near = nearest(near, second, run + RUN + i, width);
    }
    for (int i = 0; i < LANES; i++) near = nearest(near, first, run + RUN + i, width);
    uint32_t bits;
    memcpy(&bits, &reach, sizeof bits);
    limit += bits - 1;
    uwords is_near = (uwords)(near < limit);
    uint32_t found = 0;
    for (int i = 0; i < LANES; i++) found |= is_near[i];
    return !found;
}

INLINE int can_be_stepped_as(const uint8_t *data, enum kind kind, int64_t cols, int64_t rows, int most,
                             enum width width) {
    int seen = 0, apart = 0;
    int64_t step = rows / most > 1 ? rows / most : 1, reach = cols < 1024 ? cols : 1024;
    int64_t looks = 2 * (rows / step < most ? rows / step : most);
    for (int64_t i = 0; i < looks && (seen - apart) * 4 <= looks; i++) {
        int64_t first = i % 2 * (reach / (2 * RUN) * RUN);
        int n = (int)(reach - first < RUN ? reach - first : RUN);
        int found = keeps_apart(data + (i / 2 * step * cols + first) * WIDTH[kind], n, kind, width);
        seen += found >= 0;
        apart += found > 0;
    }
    return (seen - apart) * 4 <= looks && (seen < 8 || apart * 4 >= seen * 3);
}

INLINE int can_be_stepped_of(const uint8_t *d, enum kind kind, int64_t cols, int64_t rows, int most, enum width w) {
    switch (kind) {
    case F32: return can_be_stepped_as(d, F32, cols, rows, most, w);
    case BF16: return can_be_stepped_as(d, BF16, cols, rows, most, w);
    case F16: return can_be_stepped_as(d, F16, cols, rows, most, w);
    case F64: return can_be_stepped_as(d, F64, cols, rows, most, w);
    case I8: return can_be_stepped_as(d, I8, cols, rows, most, w);
    case U8: return can_be_stepped_as(d, U8, cols, rows, most, w);
    case E4M3: return can_be_stepped_as(d, E4M3, cols, rows, most, w);
    default: return can_be_stepped_as(d, E5M2, cols, rows, most, w);
    }
}

typedef int (*stepper)(const uint8_t *, enum kind, int64_t, int64_t, int);
static int stepped_plain(const uint8_t *d, enum kind k, int64_t cols, int64_t rows, int most) {
    return can_be_stepped_of(d, k, cols, rows, most, PLAIN);
}
static stepper can_be_stepped = stepped_plain;

#if HAS_WIDE
AVX2 static int stepped_avx2(const uint8_t *d, enum kind k, int64_t cols, int64_t rows, int most) {
    return can_be_stepped_of(d, k, cols, rows, most, EIGHT);
}
AVX512 static int stepped_avx512(const uint8_t *d, enum kind k, int64_t cols, int64_t rows, int most) {
    return can_be_stepped_of(d, k, cols, rows, most, WIDE);
}
#endif

PyDoc_STRVAR(stepped_doc,
"stepped(data, kind, cols, rows, most) -> bool\n\n"
"Whether evenly spaced levels are possible in a matrix of which `data` holds the first rows: two\n"
"runs of 32 values are looked at in each of `most` rows, the ones `lattice` looks at. False is\n"
"sure; True asks for the whole look.");

static PyObject *stepped(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data;
    int kind, most;
    long long cols, rows;
    if (!PyArg_ParseTuple(args, "y*iLLi", &data, &kind, &cols, &rows, &most)) return NULL;
    if (kind < 0 || kind >= KINDS || cols < 16 || rows < 0 || most < 1 ||
        data.len / WIDTH[kind] / cols < rows) {
        PyBuffer_Release(&data);
        PyErr_SetString(PyExc_ValueError, "no such rows");
        return NULL;
    }
    int answer = can_be_stepped(data.buf, (enum kind)kind, cols, rows, most);
    PyBuffer_Release(&data);
    return PyBool_FromLong(answer);
}

/* Small tensors, many in one call: what a call costs, and what two threads cost each other when they
   take the interpreter in turns, is more than the work on one of them. */

enum { FEW = 64 }; /* values of which the first that does not survive is soon found */

/* A tensor among many. */
struct small {
    const uint8_t *at;
    enum kind kind;
    int64_t values, extent; /* the first extent; 0 of a vector */
};

enum { SMALL_FIELDS = 4 };

static Py_ssize_t rows_of(const Py_buffer *table) {
    return table->len / (SMALL_FIELDS * (Py_ssize_t)sizeof(int64_t));
}

/* Read a table, in each row first byte, bytes, kind and first extent, int64 each; NULL with an error. */
static struct small *read_table(const Py_buffer *table, const Py_buffer *data) {
    int64_t row[SMALL_FIELDS];
    const Py_ssize_t count = rows_of(table);
    struct small *all = PyMem_Calloc((size_t)count + 1, sizeof *all);
    if (!all) PyErr_NoMemory();
    int is_good = all && table->len == count * (Py_ssize_t)sizeof row;
    for (Py_ssize_t i = 0; is_good && i < count; i++) {
        memcpy(row, (const char *)table->buf + i * (Py_ssize_t)sizeof row, sizeof row);
        const int64_t first = row[0], size = row[1], kind = row[2];
        is_good = kind >= 0 && kind < KINDS && first >= 0 && first <= data->len && size >= 0 &&
                  size <= data->len - first && size % WIDTH[kind] == 0;
        if (is_good)
            all[i] = (struct small){(const uint8_t *)data->buf + first, (enum kind)kind, size / WIDTH[kind], row[3]};
    }
    if (all && !is_good) {
        PyErr_SetString(PyExc_ValueError, "the parts of a table do not fit together");
        PyMem_Free(all);
        return NULL;
    }
    return all;
}

/* Return the bits of those kinds in `tried` that hold the first values of a tensor. */
static int held_by(const struct small *one, int tried) {
    int held = 0;
    for (int to = 0; to < KINDS; to++) {
        if (!(tried >> to & 1)) continue;
        int64_t some = one->values < FEW ? one->values : FEW, more = one->values < CHUNK ? one->values : CHUNK;
        if (narrow_best(one->at, some, one->kind, (enum kind)to, NULL, 1) &&
            narrow_best(one->at, more, one->kind, (enum kind)to, NULL, 1))
            held |= 1 << to;
    }
    return held;
}

/* Whether `narrow` can try what is asked of each kind; 0 with an error. */
static int can_try(const Py_buffer *tried) {
    const int from_known = 1 << F32 | 1 << BF16 | 1 << F16 | 1 << E4M3;
    const int to_known = 1 << BF16 | 1 << F16 | 1 << E4M3 | 1 << E5M2;
    int is_good = tried->len == KINDS;
    for (int kind = 0; is_good && kind < KINDS; kind++)
        is_good = !(((const uint8_t *)tried->buf)[kind] & ~(from_known >> kind & 1 ? to_known : 0));
    if (!is_good) PyErr_SetString(PyExc_ValueError, "no such dtypes to try");
    return is_good;
}

/* Read bytes once, in order, so that they are in the core's cache. BLAKE3 reads sixteen places a KiB
   apart in turns, an order in which processors were not seen to ask memory ahead. */
static void bring(const volatile char *data, Py_ssize_t size) {
    for (Py_ssize_t i = 0; i < size; i += LINE) (void)data[i];
}

enum { NEAR = 1 << 18 }; /* bytes that a core's cache keeps near */

/* Return the number behind the tensors from number `i` on that stay near together. */
static Py_ssize_t reach_of(const struct small *all, Py_ssize_t i, Py_ssize_t count) {
    Py_ssize_t size = 0;
    while (i < count && size < NEAR) size += all[i].values * WIDTH[all[i].kind], i++;
    return i;
}

/* Call `update` with some bytes of a memoryview; 0 with an error. */
static int give(PyObject *update, PyObject *view, Py_ssize_t start, Py_ssize_t end) {
    PyObject *piece = PySequence_GetSlice(view, start, end), *done = NULL;
    if (piece) done = PyObject_CallFunctionObjArgs(update, piece, NULL);
    Py_XDECREF(piece);
    Py_XDECREF(done);
    return done != NULL;
}

PyDoc_STRVAR(feed_doc,
"feed(update, view, size)\n\n"
"Call `update` with `size` bytes of a memoryview at a time, each brought into the core's cache before.");

static PyObject *feed(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *update, *view;
    Py_ssize_t size;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "OOn", &update, &view, &size)) return NULL;
    if (size < 1) return PyErr_Format(PyExc_ValueError, "%zd bytes at a time", size);
    if (PyObject_GetBuffer(view, &data, PyBUF_SIMPLE) < 0) return NULL;
    int is_good = 1;
    for (Py_ssize_t at = 0; is_good && at < data.len; at += size) {
        const Py_ssize_t some = data.len - at < size ? data.len - at : size;
        Py_BEGIN_ALLOW_THREADS
        bring((const char *)data.buf + at, some);
        Py_END_ALLOW_THREADS
        is_good = give(update, view, at, at + some);
    }
    PyBuffer_Release(&data);
    if (!is_good) return NULL;
    Py_RETURN_NONE;
}

/* What hashes tensors: a hasher's methods, what comes before each tensor, where they lie, and memory in which
   the first bytes of each are put together with what comes before. */
enum { RESET, UPDATE, DIGEST, ASKED };

struct hashing {
    PyObject *asked[ASKED], *heads, *view, *scratch, *digests;
    Py_buffer data, room;
};

static void end_hashing(struct hashing *h) {
    for (int i = 0; i < ASKED; i++) Py_XDECREF(h->asked[i]);
    Py_XDECREF(h->digests);
    if (h->data.obj) PyBuffer_Release(&h->data);
    if (h->room.obj) PyBuffer_Release(&h->room);
}

/* Get ready, of what the arguments gave; 0 with an error. */
static int begin_hashing(struct hashing *h, PyObject *hasher, Py_ssize_t count) {
    static const char *const names[ASKED] = {"reset", "update", "digest"};
    if (PyTuple_Size(h->heads) != count) {
        PyErr_SetString(PyExc_ValueError, "not as many heads as tensors");
        return 0;
    }
    int is_good = (h->digests = PyList_New(count)) != NULL;
    for (int i = 0; is_good && i < ASKED; i++) is_good = (h->asked[i] = PyObject_GetAttrString(hasher, names[i])) != NULL;
    return is_good && PyObject_GetBuffer(h->view, &h->data, PyBUF_SIMPLE) == 0 &&
           PyObject_GetBuffer(h->scratch, &h->room, PyBUF_WRITABLE) == 0;
}

/* Hash tensor `i`, which is near; 0 with an error. */
static int hash_one(const struct hashing *h, Py_ssize_t i, const struct small *one) {
    char *head, *room = h->room.buf;
    Py_ssize_t used, start = one->at - (const uint8_t *)h->data.buf, size = one->values * WIDTH[one->kind];
    if (PyBytes_AsStringAndSize(PyTuple_GetItem(h->heads, i), &head, &used) < 0) return 0;
    if (used > h->room.len) {
        PyErr_Format(PyExc_ValueError, "no room for a head of %zd bytes", used);
        return 0;
    }
    PyObject *done = PyObject_CallNoArgs(h->asked[RESET]);
    if (!done) return 0;
    Py_DECREF(done);
    const Py_ssize_t first = size < h->room.len - used ? size : h->room.len - used;
    memcpy(room, head, (size_t)used);
    memcpy(room + used, one->at, (size_t)first);
    if (!give(h->asked[UPDATE], h->scratch, 0, used + first)) return 0;
    if (first < size && !give(h->asked[UPDATE], h->view, start + first, start + size)) return 0;
    PyObject *digest = PyObject_CallNoArgs(h->asked[DIGEST]);
    return digest && PyList_SetItem(h->digests, i, digest) == 0;
}

PyDoc_STRVAR(hash_each_doc,
"hash_each(hasher, heads, view, table, scratch) -> [digest]\n\n"
"Hash tensors that lie in a memoryview, a head (bytes) before each. `hasher` has `reset`, `update` and\n"
"`digest`, `table` is as of `held`. As many bytes as `scratch`, a memoryview too, has room for are put\n"
"together there, and the rest follows.");

static PyObject *hash_each(PyObject *module, PyObject *args) {
    (void)module;
    struct hashing h = {0};
    PyObject *hasher, *digests = NULL;
    Py_buffer table;
    if (!PyArg_ParseTuple(args, "OO!Oy*O", &hasher, &PyTuple_Type, &h.heads, &h.view, &table, &h.scratch)) return NULL;
    const Py_ssize_t count = rows_of(&table);
    struct small *all = NULL;
    int is_good = begin_hashing(&h, hasher, count) && (all = read_table(&table, &h.data)) != NULL;
    for (Py_ssize_t i = 0, near; is_good && i < count; i = near) {
        near = reach_of(all, i, count);
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t k = i; k < near; k++) bring((const char *)all[k].at, all[k].values * WIDTH[all[k].kind]);
        Py_END_ALLOW_THREADS
        for (Py_ssize_t k = i; is_good && k < near; k++) is_good = hash_one(&h, k, &all[k]);
    }
    if (is_good) digests = Py_NewRef(h.digests);
    end_hashing(&h);
    PyMem_Free(all);
    PyBuffer_Release(&table);
    return digests;
}

PyDoc_STRVAR(held_doc,
"held(data, table, tried) -> bytes\n\n"
"Look at tensors that lie in `data`. `table` is int64, four a tensor: first byte, bytes, kind, and its\n"
"first extent, 0 of a vector; `tried` has a byte for each kind, with a bit for every kind that may hold\n"
"the same values in less. Return a byte a tensor, with the bits of those that hold the first 1024.");

static PyObject *held(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data, table, tried;
    if (!PyArg_ParseTuple(args, "y*y*y*", &data, &table, &tried)) return NULL;
    const Py_ssize_t count = rows_of(&table);
    struct small *all = can_try(&tried) ? read_table(&table, &data) : NULL;
    PyObject *found = PyBytes_FromStringAndSize(NULL, count);
    const int is_good = all && found;
    for (Py_ssize_t i = 0; is_good && i < count; i++)
        PyBytes_AsString(found)[i] = (char)held_by(&all[i], ((const uint8_t *)tried.buf)[all[i].kind]);
    if (!is_good) Py_CLEAR(found);
    PyMem_Free(all);
    PyBuffer_Release(&data);
    PyBuffer_Release(&table);
    PyBuffer_Release(&tried);
    return found;
}

/* What is made of a tensor among many. */
struct looked {
    const struct small *of;
    int64_t rows, cols;
    int side, height, width, held, looks;
    Py_ssize_t start; /* of its sketch among all */
    double energy, after[4];
};

/* Read a tensor as a matrix, as `Layout.of` does. */
static int lay_out(struct looked *one, Py_ssize_t signs) {
    int64_t values = one->of->values, extent = one->of->extent;
    if (values < 1 || extent < 0 || (extent && values % extent)) return 0;
    one->cols = extent ? values / extent : values < BLOCK ? values : BLOCK;
    one->rows = extent ? extent : (values + BLOCK - 1) / BLOCK;
    one->side = extent ? SIDE : GROUPS;
    one->height = (int)(one->rows < one->side ? one->rows : one->side);
    one->width = (int)(one->cols < SIDE ? one->cols : SIDE);
    return signs >= one->cols / BLOCK / 2 + 2 && signs >= one->rows / one->side / 8 + 1;
}

/* Bytes of a sketch's arrays: its core, rows and columns. */
static Py_ssize_t size_of(const struct looked *one) {
    return 4 * (Py_ssize_t)(one->height * one->width + one->height + one->width);
}

/* Whether values come again at the beginning of a matrix, as `lattice` asks before it looks. Those known are
   kept in a table, each at a place its bits say, or the next that is free. */
static int comes_again(const struct looked *one) {
    enum { PLACES = 4 * FEW };
    const int count = one->cols < FEW ? (int)one->cols : FEW;
    const Py_ssize_t width = WIDTH[one->of->kind];
    uint64_t known[PLACES];
    uint8_t is_taken[PLACES] = {0};
    int again = 0;
    for (int i = 0; i < count; i++) {
        uint64_t word = 0;
        memcpy(&word, one->of->at + i * width, (size_t)width);
        int place = (int)(word * UINT64_C(0x9e3779b97f4a7c15) >> 56) % PLACES; /* 2^64 over the golden ratio */
        while (is_taken[place] && known[place] != word) place = (place + 1) % PLACES;
        again += is_taken[place];
        is_taken[place] = 1;
        known[place] = word;
    }
    return again > 2 + 3.0 / 496 * count * (count - 1) / 2;
}

/* Whether a lattice is possible. */
static int is_worth_a_look(const struct looked *one, int most) {
    if (one->side != SIDE) return 0;
    if (one->of->kind > F64) return 1; /* 8 bits are a lattice as they are stored */
    if (one->cols < 16) return 0;
    return can_be_stepped(one->of->at, one->of->kind, one->cols, one->rows, most) || comes_again(one);
}

static void look_at(struct looked *one, int tried, int every, int most, const uint8_t *signs, float *sketch) {
    double sums[SIDE * SIDE + SIDE + SIDE + 4] = {0};
    double *rows = sums + one->side * SIDE, *cols = rows + one->side, *after = cols + SIDE;
    struct state s = {sums, rows, cols, after, after + 1, after + 2, after + 3};
    struct view v = {one->cols, 0, one->rows, 0, one->cols, one->side, every, NULL, 0};
    one->held = held_by(one->of, tried);
    add_all(&s, &v, one->of->at, one->of->values, 0, one->of->kind, signs);
    one->energy = round_off(sums, one->side, one->height, one->width, sketch);
    memcpy(one->after, after, sizeof one->after);
    one->looks = is_worth_a_look(one, most);
}

enum { HELD, LOOKS, LEFT_OUT, SHAPES, STARTS, ENERGIES, FOURTHS, ZEROS, FLATS, COLUMNS };

/* Put what was found of tensor `i` into the columns; a slip leaves an error behind. */
static void tell(PyObject *const *columns, Py_ssize_t i, const struct looked *one) {
    const double common = one->after[3]; /* NaN once two values differed */
    PyBytes_AsString(columns[HELD])[i] = (char)one->held;
    PyBytes_AsString(columns[LOOKS])[i] = (char)one->looks;
    PyList_SetItem(columns[LEFT_OUT], i, PyLong_FromDouble(one->after[2]));
    PyList_SetItem(columns[SHAPES], i, Py_BuildValue("ii", one->height, one->width));
    PyList_SetItem(columns[STARTS], i, PyLong_FromSsize_t(one->start));
    PyList_SetItem(columns[ENERGIES], i, PyFloat_FromDouble(one->energy));
    PyList_SetItem(columns[FOURTHS], i, PyFloat_FromDouble(one->after[0]));
    PyList_SetItem(columns[ZEROS], i, PyLong_FromDouble(one->after[1]));
    PyList_SetItem(columns[FLATS], i, PyBool_FromLong(common == common));
}

PyDoc_STRVAR(many_doc,
"many(hasher, heads, view, table, scratch, tried, every, most, signs) -> ([digest], held, looks, [left out],\n"
"[shape], raw, [start], [energy], [fourth], [zeros], [flat])\n\n"
"Sketch whole tensors that lie in a memoryview, and hash them while they are near, as `hash_each` does.\n"
"`tried` and `held` are as of `held`, `every` and `signs` as of `add`. `looks` has a byte a tensor:\n"
"whether `lattice` may find one, as `stepped` says with `most`, or as values come again. Then lists,\n"
"first how many values were left out, and then what a `Sketch` is made of, the arrays of all in one `raw`.");

static PyObject *many(PyObject *module, PyObject *args) {
    (void)module;
    struct hashing h = {0};
    Py_buffer table, tried, signs;
    PyObject *hasher, *columns[COLUMNS], *raw = NULL, *found = NULL;
    int every, most;
    if (!PyArg_ParseTuple(args, "OO!Oy*Oy*iiy*", &hasher, &PyTuple_Type, &h.heads, &h.view, &table, &h.scratch, &tried,
                          &every, &most, &signs))
        return NULL;
    const Py_ssize_t count = rows_of(&table);
    struct small *all = NULL;
    struct looked *looked = PyMem_Calloc((size_t)count + 1, sizeof *looked);
    if (!looked) PyErr_NoMemory();
    for (int i = 0; i < COLUMNS; i++)
        columns[i] = i <= LOOKS ? PyBytes_FromStringAndSize(NULL, count) : PyList_New(count);
    Py_ssize_t size = 0;
    int is_good = !PyErr_Occurred() && begin_hashing(&h, hasher, count) && can_try(&tried) &&
                  (all = read_table(&table, &h.data)) != NULL;
    for (Py_ssize_t i = 0; is_good && i < count; i++) {
        looked[i].of = &all[i];
        looked[i].start = size;
        is_good = every > 0 && most > 0 && lay_out(&looked[i], signs.len);
        if (is_good) size += size_of(&looked[i]);
        else PyErr_SetString(PyExc_ValueError, "the parts of a sketch do not fit together");
    }
    if (is_good) is_good = (raw = PyBytes_FromStringAndSize(NULL, size)) != NULL;
    char *sketches = raw ? PyBytes_AsString(raw) : NULL; /* nobody else has them yet */
    for (Py_ssize_t i = 0, near; is_good && i < count; i = near) {
        near = reach_of(all, i, count);
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t k = i; k < near; k++)
            look_at(&looked[k], ((const uint8_t *)tried.buf)[all[k].kind], every, most, signs.buf,
                    (float *)(sketches + looked[k].start));
        Py_END_ALLOW_THREADS
        for (Py_ssize_t k = i; is_good && k < near; k++) is_good = hash_one(&h, k, &all[k]);
    }
    for (Py_ssize_t i = 0; is_good && i < count; i++) {
        tell(columns, i, &looked[i]);
        is_good = !PyErr_Occurred();
    }
    if (is_good)
        found = Py_BuildValue("OOOOOOOOOOO", h.digests, columns[HELD], columns[LOOKS], columns[LEFT_OUT],
                              columns[SHAPES], raw, columns[STARTS], columns[ENERGIES], columns[FOURTHS],
                              columns[ZEROS], columns[FLATS]);
    for (int i = 0; i < COLUMNS; i++) Py_XDECREF(columns[i]);
    Py_XDECREF(raw);
    end_hashing(&h);
    PyMem_Free(all);
    PyMem_Free(looked);
    PyBuffer_Release(&table);
    PyBuffer_Release(&tried);
    PyBuffer_Release(&signs);
    return found;
}

/* Take the widest loops this processor runs. */
static void choose(void) {
#if HAS_WIDE
    unsigned a, b, c = 0, d;
    int has_f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c) {
        add_run_best = add_run_avx2;
        narrow_best = narrow_avx2;
        unpack_best = unpack_avx2;
        can_be_stepped = stepped_avx2;
        to_floats_best = to_floats_avx2;
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        add_run_best = add_run_avx512;
        narrow_best = narrow_avx512;
        can_be_stepped = stepped_avx512;
        to_floats_best = to_floats_avx512;
    }
#endif
}

static PyMethodDef methods[] = {
    {"add", add, METH_VARARGS, add_doc},
    {"feed", feed, METH_VARARGS, feed_doc},
    {"finish", finish, METH_VARARGS, finish_doc},
    {"hash_each", hash_each, METH_VARARGS, hash_each_doc},
    {"held", held, METH_VARARGS, held_doc},
    {"many", many, METH_VARARGS, many_doc},
    {"narrow", narrow, METH_VARARGS, narrow_doc},
    {"stepped", stepped, METH_VARARGS, stepped_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_kernel", "The inner loops of the sketch.", 0, methods, 0, 0, 0, 0,
};

PyMODINIT_FUNC PyInit__kernel(void) {
    fill_factors();
    choose();
    return PyModule_Create(&definition);
}
