/* Tensors, many in one call: what a call costs, and what two threads cost each other when they take the
   interpreter in turns, is more than the work on a small one. */

#pragma once

#include "narrowing.h"

enum { FEW = 64 }; /* values of which the first that does not survive is soon found */

/* A tensor among many. */
struct tensor {
    const uint8_t *at;
    enum kind kind;
    int64_t values, extent; /* the first extent; 0 of a vector */
};

enum { FIELDS = 4 };

static Py_ssize_t rows_of(const Py_buffer *table) {
    return table->len / (FIELDS * (Py_ssize_t)sizeof(int64_t));
}

/* Read a table, in each row first byte, bytes, kind and first extent, int64 each; NULL with an error. */
static struct tensor *read_table(const Py_buffer *table, const Py_buffer *data) {
    int64_t row[FIELDS];
    const Py_ssize_t count = rows_of(table);
    struct tensor *all = PyMem_Calloc((size_t)count + 1, sizeof *all);
    if (!all) PyErr_NoMemory();
    int is_good = all && table->len == count * (Py_ssize_t)sizeof row;
    for (Py_ssize_t i = 0; is_good && i < count; i++) {
        memcpy(row, (const char *)table->buf + i * (Py_ssize_t)sizeof row, sizeof row);
        const int64_t first = row[0], size = row[1], kind = row[2];
        is_good = kind >= 0 && kind < KINDS && first >= 0 && first <= data->len && size >= 0 &&
                  size <= data->len - first && size % WIDTH[kind] == 0;
        if (is_good)
            all[i] = (struct tensor){(const uint8_t *)data->buf + first, (enum kind)kind, size / WIDTH[kind], row[3]};
    }
    if (all && !is_good) {
        PyErr_SetString(PyExc_ValueError, "the parts of a table do not fit together");
        PyMem_Free(all);
        return NULL;
    }
    return all;
}

/* Return the bits of those kinds in `tried` that hold the first values of a tensor. */
static int held_by(const struct tensor *one, int tried) {
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
