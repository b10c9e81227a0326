/* Bytes are brought into a core's cache, where somebody else hashes them. */

#pragma once

#include "tables.h"

enum { LINE = 64 }; /* bytes of a line of the cache; some processors have longer ones */

/* Read bytes once, in order, so that they are in the core's cache. BLAKE3 reads sixteen places a KiB
   apart in turns, an order in which processors were not seen to ask memory ahead. */
static void bring(const volatile char *data, Py_ssize_t size) {
    for (Py_ssize_t i = 0; i < size; i += LINE) (void)data[i];
}

enum { NEAR = 1 << 18, BROUGHT = 1 << 20 }; /* bytes that stay near whatever else is done, and while they are hashed */

static Py_ssize_t size_of(const struct tensor *one) { return one->values * WIDTH[one->kind]; }

/* Whether a tensor does not stay near as a whole. */
static int is_large(const struct tensor *one) { return size_of(one) > NEAR; }

/* Return the number behind the tensors from number `i` on that stay near together; a large one is alone. */
static Py_ssize_t reach_of(const struct tensor *all, Py_ssize_t i, Py_ssize_t count) {
    if (is_large(&all[i])) return i + 1;
    Py_ssize_t size = 0;
    while (i < count && size < NEAR && !is_large(&all[i])) size += size_of(&all[i++]);
    return i;
}

/* Call `update` with some bytes of a memoryview, and let who wants to end the process do so; 0 with an error. */
static int give(PyObject *update, PyObject *view, Py_ssize_t start, Py_ssize_t end) {
    PyObject *piece = PySequence_GetSlice(view, start, end), *done = NULL;
    if (piece) done = PyObject_CallFunctionObjArgs(update, piece, NULL);
    Py_XDECREF(piece);
    Py_XDECREF(done);
    return done && PyErr_CheckSignals() == 0;
}

/* Call `update` with the bytes of a memoryview from `at` on, some at a time, each brought near before: the
   interpreter is asked for as seldom as the cache allows. `data` is where the view begins; 0 with an error. */
static int feed_all(PyObject *update, PyObject *view, const char *data, Py_ssize_t at, Py_ssize_t end) {
    for (Py_ssize_t some; at < end; at += some) {
        some = end - at < BROUGHT ? end - at : BROUGHT;
        Py_BEGIN_ALLOW_THREADS
        bring(data + at, some);
        Py_END_ALLOW_THREADS
        if (!give(update, view, at, at + some)) return 0;
    }
    return 1;
}

PyDoc_STRVAR(feed_doc,
"feed(update, view)\n\n"
"Call `update` with the bytes of a memoryview, a MiB at a time, each brought into the core's cache before.");

static PyObject *feed(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *update, *view;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "OO", &update, &view)) return NULL;
    if (PyObject_GetBuffer(view, &data, PyBUF_SIMPLE) < 0) return NULL;
    const int is_good = feed_all(update, view, data.buf, 0, data.len);
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

/* Begin tensor `i`: hash its head, and as many of its first bytes as there is room for. Return how many, or
   -1 with an error. */
static Py_ssize_t begin_one(const struct hashing *h, Py_ssize_t i, const struct tensor *one) {
    char *head, *room = h->room.buf;
    Py_ssize_t used;
    if (PyBytes_AsStringAndSize(PyTuple_GetItem(h->heads, i), &head, &used) < 0) return -1;
    if (used > h->room.len) {
        PyErr_Format(PyExc_ValueError, "no room for a head of %zd bytes", used);
        return -1;
    }
    PyObject *done = PyObject_CallNoArgs(h->asked[RESET]);
    if (!done) return -1;
    Py_DECREF(done);
    const Py_ssize_t first = size_of(one) < h->room.len - used ? size_of(one) : h->room.len - used;
    memcpy(room, head, (size_t)used);
    memcpy(room + used, one->at, (size_t)first);
    return give(h->asked[UPDATE], h->scratch, 0, used + first) ? first : -1;
}

/* Hash a tensor's bytes from `at` to `end`, which are near; 0 with an error. */
static int go_on(const struct hashing *h, const struct tensor *one, Py_ssize_t at, Py_ssize_t end) {
    const Py_ssize_t start = one->at - (const uint8_t *)h->data.buf;
    return at == end || give(h->asked[UPDATE], h->view, start + at, start + end);
}

static int end_one(const struct hashing *h, Py_ssize_t i) {
    PyObject *digest = PyObject_CallNoArgs(h->asked[DIGEST]);
    return digest && PyList_SetItem(h->digests, i, digest) == 0;
}

/* Leave out tensor `i`, of which somebody else has more to see. */
static int leave_out(const struct hashing *h, Py_ssize_t i) {
    Py_INCREF(Py_None);
    return PyList_SetItem(h->digests, i, Py_None) == 0;
}

/* Hash tensor `i`, which is near; 0 with an error. */
static int hash_one(const struct hashing *h, Py_ssize_t i, const struct tensor *one) {
    const Py_ssize_t first = begin_one(h, i, one);
    return first >= 0 && go_on(h, one, first, size_of(one)) && end_one(h, i);
}

/* Hash tensor `i`, which is large; 0 with an error. */
static int hash_large(const struct hashing *h, Py_ssize_t i, const struct tensor *one) {
    const Py_ssize_t first = begin_one(h, i, one), start = one->at - (const uint8_t *)h->data.buf;
    return first >= 0 && feed_all(h->asked[UPDATE], h->view, h->data.buf, start + first, start + size_of(one)) &&
           end_one(h, i);
}

PyDoc_STRVAR(hash_each_doc,
"hash_each(hasher, heads, view, table, scratch, tried) -> ([digest], held)\n\n"
"Hash tensors that lie in a memoryview, a head (bytes) before each. `hasher` has `reset`, `update` and\n"
"`digest`. `table` is int64, four a tensor: first byte, bytes, kind, and its first extent, 0 of a vector.\n"
"As many bytes as `scratch`, a memoryview too, has room for are put together there, and the rest follows.\n"
"`tried` has a byte for each kind, with a bit for every kind that may hold the same values in less; `held`\n"
"a byte a tensor, with the bits of those that hold the first 1024. In place of the digest of one that is\n"
"held, and larger than 256 KiB, is None.");

static PyObject *hash_each(PyObject *module, PyObject *args) {
    (void)module;
    struct hashing h = {0};
    PyObject *hasher, *found = NULL;
    Py_buffer table, tried;
    if (!PyArg_ParseTuple(args, "OO!Oy*Oy*", &hasher, &PyTuple_Type, &h.heads, &h.view, &table, &h.scratch, &tried))
        return NULL;
    const Py_ssize_t count = rows_of(&table);
    struct tensor *all = NULL;
    PyObject *held = PyBytes_FromStringAndSize(NULL, count);
    char *bits = held ? PyBytes_AsString(held) : NULL; /* nobody else has them yet */
    int is_good = held && begin_hashing(&h, hasher, count) && can_try(&tried) &&
                  (all = read_table(&table, &h.data)) != NULL;
    for (Py_ssize_t i = 0, near; is_good && i < count; i = near) {
        near = reach_of(all, i, count);
        const int large = is_large(&all[i]);
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t k = i; k < near; k++) {
            bits[k] = (char)held_by(&all[k], ((const uint8_t *)tried.buf)[all[k].kind]);
            if (!large) bring((const char *)all[k].at, size_of(&all[k]));
        }
        Py_END_ALLOW_THREADS
        if (large) is_good = bits[i] ? leave_out(&h, i) : hash_large(&h, i, &all[i]);
        else
            for (Py_ssize_t k = i; is_good && k < near; k++) is_good = hash_one(&h, k, &all[k]);
    }
    if (is_good) found = Py_BuildValue("OO", h.digests, held);
    Py_XDECREF(held);
    end_hashing(&h);
    PyMem_Free(all);
    PyBuffer_Release(&table);
    PyBuffer_Release(&tried);
    return found;
}
