/* Rounding to narrower dtypes, to nearest, ties to even. Each returns the codes, and
   marks in `lost` what it does not hold bit for bit (NaNs are never held). */

#pragma once

#include "vectors.h"

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
