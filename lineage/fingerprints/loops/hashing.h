/* Bytes are brought into a core's cache, where somebody else hashes them. */

#pragma once

#include "tables.h"

enum { LINE = 64 }; /* bytes of a line of the cache; some processors have longer ones */

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
