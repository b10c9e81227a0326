/* Tensors are sketched and hashed, many in one call. */

#pragma once

#include "hashing.h"
#include "steps.h"
#include "sums.h"

/* What is made of a tensor among many. */
struct looked {
    const struct tensor *of;
    int64_t rows, cols;
    int side, height, width, held, looks;
    Py_ssize_t core, sides; /* where they begin among all */
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

/* Memory for the sketches of many: bytes that nobody else has yet, and where these lie. */
struct sketches {
    PyObject *cores, *sides;
    char *at_cores, *at_sides;
    Py_ssize_t core_size, side_size;
};

static void make_room(struct sketches *room, struct looked *one) {
    one->core = room->core_size;
    one->sides = room->side_size;
    room->core_size += 4 * (Py_ssize_t)(one->height * one->width);
    room->side_size += 4 * (Py_ssize_t)(one->height + one->width);
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

/* Whether a lattice is possible, as far as the first rows say, those in `LOOKED` bytes. */
static int is_worth_a_look(const struct looked *one, int most) {
    enum { LOOKED = 4 * BROUGHT };
    if (one->side != SIDE) return 0;
    if (one->of->kind > F64) return 1; /* 8 bits are a lattice as they are stored */
    if (one->cols < 16) return 0;
    const int64_t whole = LOOKED / WIDTH[one->of->kind] / one->cols, rows = one->rows < whole ? one->rows : whole;
    return can_be_stepped(one->of->at, one->of->kind, one->cols, rows, most) || comes_again(one);
}

/* The sums of a sketch, while they are made. */
struct sketching {
    double sums[SIDE * SIDE + SIDE + SIDE + 4], *after;
    struct state state;
    struct view view;
    const uint8_t *signs;
};

static void begin_sums(struct sketching *k, const struct looked *one, int every, const uint8_t *signs) {
    memset(k->sums, 0, sizeof k->sums);
    double *rows = k->sums + one->side * SIDE, *cols = rows + one->side, *after = cols + SIDE;
    k->after = after;
    k->state = (struct state){k->sums, rows, cols, after, after + 1, after + 2, after + 3};
    k->view = (struct view){one->cols, 0, one->rows, 0, one->cols, one->side, every, NULL, 0};
    k->signs = signs;
}

/* Add the values in a tensor's bytes from `at` to `end`. */
static void add_some(struct sketching *k, const struct tensor *of, Py_ssize_t at, Py_ssize_t end) {
    const Py_ssize_t width = WIDTH[of->kind];
    add_all(&k->state, &k->view, of->at + at, (end - at) / width, at / width, of->kind, k->signs);
}

static void end_sums(const struct sketching *k, struct looked *one, const struct sketches *room, int most) {
    one->energy = round_off(k->sums, one->side, one->height, one->width, (float *)(room->at_cores + one->core),
                            (float *)(room->at_sides + one->sides));
    memcpy(one->after, k->after, sizeof one->after);
    one->looks = is_worth_a_look(one, most);
}

/* Sketch and hash tensor `i`, which is large; the sums go ahead, as hashing takes whole steps; 0 with an error. */
static int take_large(const struct hashing *h, Py_ssize_t i, struct looked *one, struct sketching *k,
                      const struct sketches *room, int most) {
    const Py_ssize_t size = size_of(one->of), step = h->room.len;
    Py_ssize_t hashed = begin_one(h, i, one->of);
    for (Py_ssize_t at = 0, end; hashed >= 0 && at < size; at = end) {
        end = size - at < BROUGHT ? size : at + BROUGHT;
        Py_BEGIN_ALLOW_THREADS
        if (k->view.every > 1) bring((const char *)one->of->at + at, end - at);
        add_some(k, one->of, at, end);
        if (end == size) end_sums(k, one, room, most);
        Py_END_ALLOW_THREADS
        const Py_ssize_t to = end == size || end < hashed ? end : end - (end - hashed) % step;
        if (to > hashed) hashed = go_on(h, one->of, hashed, to) ? to : -1;
    }
    return hashed >= 0 && end_one(h, i);
}

enum { HELD, LOOKS, LEFT_OUT, SHAPES, STARTS, ENERGIES, FOURTHS, ZEROS, FLATS, COLUMNS };

/* Put what was found of tensor `i` into the columns; a slip leaves an error behind. */
static void tell(PyObject *const *columns, Py_ssize_t i, const struct looked *one) {
    const double common = one->after[3]; /* NaN once two values differed */
    PyBytes_AsString(columns[HELD])[i] = (char)one->held;
    PyBytes_AsString(columns[LOOKS])[i] = (char)one->looks;
    PyList_SetItem(columns[LEFT_OUT], i, PyLong_FromDouble(one->after[2]));
    PyList_SetItem(columns[SHAPES], i, Py_BuildValue("ii", one->height, one->width));
    PyList_SetItem(columns[STARTS], i, Py_BuildValue("nn", one->core, one->sides));
    PyList_SetItem(columns[ENERGIES], i, PyFloat_FromDouble(one->energy));
    PyList_SetItem(columns[FOURTHS], i, PyFloat_FromDouble(one->after[0]));
    PyList_SetItem(columns[ZEROS], i, PyLong_FromDouble(one->after[1]));
    PyList_SetItem(columns[FLATS], i, PyBool_FromLong(common == common));
}

PyDoc_STRVAR(many_doc,
"many(hasher, heads, view, table, scratch, tried, every, most, signs) -> ([digest], held, looks, [left out],\n"
"[shape], raw, [start], [energy], [fourth], [zeros], [flat])\n\n"
"Sketch whole tensors that lie in a memoryview, and hash them while they are near, as `hash_each` does; one\n"
"that it leaves out has no sketch either. `every` and `signs` are as of `add`. `looks` has a byte a tensor:\n"
"whether `lattice` may find one in the first 4 MiB, as `stepped` says with `most`, or as values come again.\n"
"Then lists, first how many values were left out, and then what a `Sketch` is made of, the arrays of all in\n"
"the same `raw`.");

static PyObject *many(PyObject *module, PyObject *args) {
    (void)module;
    struct hashing h = {0};
    Py_buffer table, tried, signs;
    PyObject *hasher, *columns[COLUMNS], *found = NULL;
    struct sketches room = {0};
    int every, most;
    struct sketching sums;
    if (!PyArg_ParseTuple(args, "OO!Oy*Oy*iiy*", &hasher, &PyTuple_Type, &h.heads, &h.view, &table, &h.scratch, &tried,
                          &every, &most, &signs))
        return NULL;
    const Py_ssize_t count = rows_of(&table);
    struct tensor *all = NULL;
    struct looked *looked = PyMem_Calloc((size_t)count + 1, sizeof *looked);
    if (!looked) PyErr_NoMemory();
    for (int i = 0; i < COLUMNS; i++)
        columns[i] = i <= LOOKS ? PyBytes_FromStringAndSize(NULL, count) : PyList_New(count);
    int is_good = !PyErr_Occurred() && begin_hashing(&h, hasher, count) && can_try(&tried) &&
                  (all = read_table(&table, &h.data)) != NULL;
    for (Py_ssize_t i = 0; is_good && i < count; i++) {
        looked[i].of = &all[i];
        is_good = every > 0 && most > 0 && lay_out(&looked[i], signs.len);
        if (is_good) make_room(&room, &looked[i]);
        else PyErr_SetString(PyExc_ValueError, "the parts of a sketch do not fit together");
    }
    if (is_good)
        is_good = (room.cores = PyBytes_FromStringAndSize(NULL, room.core_size)) != NULL &&
                  (room.sides = PyBytes_FromStringAndSize(NULL, room.side_size)) != NULL;
    if (is_good) room.at_cores = PyBytes_AsString(room.cores), room.at_sides = PyBytes_AsString(room.sides);
    for (Py_ssize_t i = 0, near; is_good && i < count; i = near) {
        near = reach_of(all, i, count);
        const int large = is_large(&all[i]);
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t k = i; k < near; k++) {
            looked[k].held = held_by(&all[k], ((const uint8_t *)tried.buf)[all[k].kind]);
            begin_sums(&sums, &looked[k], every, signs.buf);
            if (large) break;
            add_some(&sums, &all[k], 0, size_of(&all[k]));
            end_sums(&sums, &looked[k], &room, most);
        }
        Py_END_ALLOW_THREADS
        if (large && looked[i].held) is_good = leave_out(&h, i);
        else if (large) is_good = take_large(&h, i, &looked[i], &sums, &room, most);
        else
            for (Py_ssize_t k = i; is_good && k < near; k++) is_good = hash_one(&h, k, &all[k]);
    }
    for (Py_ssize_t i = 0; is_good && i < count; i++) {
        tell(columns, i, &looked[i]);
        is_good = !PyErr_Occurred();
    }
    if (is_good)
        found = Py_BuildValue("OOOOO(OO)OOOOO", h.digests, columns[HELD], columns[LOOKS], columns[LEFT_OUT],
                              columns[SHAPES], room.cores, room.sides, columns[STARTS], columns[ENERGIES],
                              columns[FOURTHS], columns[ZEROS], columns[FLATS]);
    for (int i = 0; i < COLUMNS; i++) Py_XDECREF(columns[i]);
    Py_XDECREF(room.cores);
    Py_XDECREF(room.sides);
    end_hashing(&h);
    PyMem_Free(all);
    PyMem_Free(looked);
    PyBuffer_Release(&table);
    PyBuffer_Release(&tried);
    PyBuffer_Release(&signs);
    return found;
}
