/* The inner loops of the sketch: one pass over raw bytes while they are in cache. And what brings bytes
   there for who hashes them next.

   `lineage/fingerprints/folding.py` is the same arithmetic in NumPy and is used where this file
   could not be compiled; the two agree within rounding. Nothing here decides anything: names,
   shapes, formats and hashes stay in Python. */

#include "loops/blocks.h"
#include "loops/many.h"

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
    double energy = round_off(state.buf, side, height, width, raw, raw + height * width);
    PyBuffer_Release(&state);
    return Py_BuildValue("y#d", (char *)raw, (Py_ssize_t)(height * width + height + width) * 4, energy);
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
