/* Whether the values of a matrix may be a quantizer's evenly spaced levels. */

#pragma once

#include "vectors.h"

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
