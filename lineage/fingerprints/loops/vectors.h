/* Sixteen values at a time: their types, and how those of each dtype are read.

   Source of the half-precision conversions: the bit layouts of IEEE 754 binary16, bfloat16, and
   of the OCP 8-bit floating point specification (E4M3, E5M2). */

#pragma once

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

enum { SIDE = 36, GROUPS = 4, BLOCK = GROUPS * SIDE, LANES = 16, PARTS = BLOCK / LANES };

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
