/* ggml's blocks of quantized numbers, unpacked a few at a time and added as floats. Products of a
   scale and a code fit a float's digits, so that there is one result whoever computes it.

   Source: dequantize_row_* in ggml-quants.c of ggml, https://github.com/ggml-org/ggml. */

#pragma once

#include "sums.h"

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
