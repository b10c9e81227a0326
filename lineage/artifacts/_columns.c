/* Thousands of tensors at once: what Python takes a microsecond for in each of them.

   `columns.py` says what each function is for and does the same without it. A header is text from
   anywhere: what is not exactly as the usual writers put it is left to the reader that can say what is
   wrong with it, so every check here ends in one answer, "not plain". */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { DIGITS = 15, EXTENTS = 64 }; /* of a number, which is then below 2^53; of a shape */

/* What is read next, how many opening brackets and commas were, and how many there may be. */
struct text {
    const char *at, *end;
    int64_t marks, most;
};

static int is_mark(char c) { return c == ',' || c == '{' || c == '['; }

/* Step over `word` if it is next. */
static int eat(struct text *text, const char *word) {
    size_t size = strlen(word);
    if ((size_t)(text->end - text->at) < size || memcmp(text->at, word, size)) return 0;
    text->at += size;
    for (const char *c = word; *c; c++) text->marks += is_mark(*c);
    return 1;
}

/* Step over a string up to and with its closing quote; its size, or -1 if it has anything but plain
   ASCII without escapes. */
static Py_ssize_t string(struct text *text, const char **found) {
    *found = text->at;
    for (; text->at < text->end && *text->at != '"'; text->at++) {
        if (*text->at < 0x20 || *text->at > 0x7e || *text->at == '\\') return -1;
        text->marks += is_mark(*text->at);
    }
    if (text->at == text->end) return -1;
    return text->at++ - *found;
}

/* Step over a number that is zero or more; -1 if none is next. */
static int64_t number(struct text *text) {
    int64_t value = 0;
    const char *first = text->at;
    for (; text->at < text->end && *text->at >= '0' && *text->at <= '9'; text->at++) {
        if (text->at - first == DIGITS) return -1;
        value = value * 10 + (*text->at - '0');
    }
    return text->at == first || (*first == '0' && text->at - first > 1) ? -1 : value;
}

/* Step over the extents of a shape, none of them zero, up to and with the bracket. Their product goes to
   `values`, -1 if it is beyond `most`; NULL if they are not plain, or with an error. */
static PyObject *shape(struct text *text, int64_t most, int64_t *values) {
    int64_t extents[EXTENTS];
    int count = 0;
    *values = 1;
    while (!eat(text, "]")) {
        if (count == EXTENTS || (count && !eat(text, ","))) return NULL;
        int64_t extent = number(text);
        if (extent < 1 || *values > most / extent) return NULL;
        *values *= extents[count++] = extent;
    }
    PyObject *tuple = PyTuple_New(count);
    for (int i = 0; tuple && i < count; i++) {
        PyObject *extent = PyLong_FromLongLong(extents[i]);
        if (!extent) Py_CLEAR(tuple);
        else PyTuple_SetItem(tuple, i, extent);
    }
    return tuple;
}

/* Add to a list what is given away; 0 with an error. */
static int push(PyObject *list, PyObject *value) {
    int is_good = value && PyList_Append(list, value) == 0;
    Py_XDECREF(value);
    return is_good;
}

enum { NAMES, DTYPES, SHAPES, STARTS, SIZES, COLUMNS };

/* What one call of `entries` knows; `dtype` is the one of the tensor before, as most have the same. */
struct header {
    struct text text;
    PyObject *columns[COLUMNS], *bits, *dtype;
    int64_t start, covered, width;
};

/* Take a dtype by its name: 0 if there is none such, or with an error. */
static int take_dtype(struct header *h, const char *name, Py_ssize_t size) {
    if (h->dtype && PyUnicode_GetLength(h->dtype) == size) {
        Py_ssize_t same;
        const char *known = PyUnicode_AsUTF8AndSize(h->dtype, &same);
        if (known && !memcmp(known, name, (size_t)size)) return 1;
    }
    Py_XDECREF(h->dtype);
    h->dtype = PyUnicode_FromStringAndSize(name, size);
    PyObject *bits = h->dtype ? PyDict_GetItemWithError(h->bits, h->dtype) : NULL;
    h->width = bits ? PyLong_AsLong(bits) : -1;
    return h->width > 0;
}

/* Take one entry, its key already read; 0 if it is not plain, or with an error. */
static int take(struct header *h, const char *name, Py_ssize_t name_size) {
    struct text *text = &h->text;
    const char *dtype;
    Py_ssize_t size;
    int64_t values, begin, end;
    if (!eat(text, ":{\"dtype\":\"") || (size = string(text, &dtype)) < 0 || !take_dtype(h, dtype, size) ||
        !eat(text, ",\"shape\":["))
        return 0;
    PyObject *extents = shape(text, INT64_MAX / 2 / h->width, &values);
    if (!extents) return 0;
    if (!eat(text, ",\"data_offsets\":[") || (begin = number(text)) != h->covered || !eat(text, ",") ||
        (end = number(text)) < begin || !eat(text, "]}") || (values * h->width + 7) / 8 != end - begin) {
        Py_DECREF(extents);
        return 0;
    }
    h->covered = end;
    return push(h->columns[SHAPES], extents) && push(h->columns[DTYPES], Py_NewRef(h->dtype)) &&
           push(h->columns[NAMES], PyUnicode_FromStringAndSize(name, name_size)) &&
           push(h->columns[STARTS], PyLong_FromLongLong(h->start + begin)) &&
           push(h->columns[SIZES], PyLong_FromLongLong(end - begin));
}

/* Take the metadata, texts by texts, its key already read; 0 if it is not plain, or with an error. */
static int take_metadata(struct text *text, PyObject *into) {
    if (!eat(text, ":{")) return 0;
    for (int is_first = 1; !eat(text, "}"); is_first = 0) {
        const char *key, *value;
        Py_ssize_t key_size, value_size;
        if ((!is_first && !eat(text, ",")) || !eat(text, "\"") || (key_size = string(text, &key)) < 0 ||
            !eat(text, ":\"") || (value_size = string(text, &value)) < 0)
            return 0;
        PyObject *name = PyUnicode_FromStringAndSize(key, key_size);
        PyObject *said = PyUnicode_FromStringAndSize(value, value_size);
        int is_new = name && said && PyDict_Contains(into, name) == 0 && PyDict_SetItem(into, name, said) == 0;
        Py_XDECREF(name);
        Py_XDECREF(said);
        if (!is_new || text->marks > text->most) return 0;
    }
    return 1;
}

/* Read the whole header; 0 if it is not plain, or with an error. */
static int read_all(struct header *h, PyObject *metadata) {
    struct text *text = &h->text;
    int has_metadata = 0;
    if (!eat(text, "{")) return 0;
    for (int is_first = 1; !eat(text, "}"); is_first = 0) {
        const char *name;
        Py_ssize_t size;
        if ((!is_first && !eat(text, ",")) || !eat(text, "\"") || (size = string(text, &name)) < 0) return 0;
        int is_metadata = size == 12 && !memcmp(name, "__metadata__", 12);
        if (is_metadata && has_metadata++) return 0;
        if (!(is_metadata ? take_metadata(text, metadata) : take(h, name, size)) || text->marks > text->most)
            return 0;
    }
    while (text->at < text->end && *text->at == ' ') text->at++;
    return text->at == text->end;
}

PyDoc_STRVAR(entries_doc,
"entries(header, bits, start, room, most_marks) -> ([names], [dtypes], [shapes], [starts], [sizes], metadata)\n\n"
"Read a plain header; None where it is not plain. `bits` has those of one value of each dtype, `start` is\n"
"where the data begins in the file, and `room` are its bytes, which tensors cover in order. Names may come\n"
"twice.");

static PyObject *entries(PyObject *module, PyObject *args) {
    (void)module;
    struct header h = {0};
    Py_ssize_t size;
    long long start, room, most;
    if (!PyArg_ParseTuple(args, "y#O!LLL", &h.text.at, &size, &PyDict_Type, &h.bits, &start, &room, &most))
        return NULL;
    h.text.end = h.text.at + size;
    h.text.most = most;
    h.start = start;
    PyObject *metadata = PyDict_New(), *found = NULL;
    int is_good = metadata != NULL;
    for (int i = 0; i < COLUMNS; i++) is_good &= (h.columns[i] = PyList_New(0)) != NULL;
    is_good = is_good && read_all(&h, metadata) && h.covered == room;
    if (is_good)
        found = PyTuple_Pack(6, h.columns[NAMES], h.columns[DTYPES], h.columns[SHAPES], h.columns[STARTS],
                             h.columns[SIZES], metadata);
    else if (!PyErr_Occurred())
        found = Py_NewRef(Py_None);
    for (int i = 0; i < COLUMNS; i++) Py_XDECREF(h.columns[i]);
    Py_XDECREF(h.dtype);
    Py_XDECREF(metadata);
    return found;
}

/* Put a row's values into the slots of a new value; NULL with an error. */
static PyObject *made_one(PyTypeObject *kind, PyObject *slots, PyObject *columns, Py_ssize_t row) {
    allocfunc alloc = (allocfunc)PyType_GetSlot(kind, Py_tp_alloc);
    PyObject *new = alloc(kind, 0);
    for (Py_ssize_t i = 0; new && i < PyTuple_Size(slots); i++) {
        PyObject *slot = PyTuple_GetItem(slots, i), *column = PyTuple_GetItem(columns, i);
        PyObject *value = PyList_CheckExact(column) ? PyList_GetItem(column, row) : column;
        descrsetfunc set = (descrsetfunc)PyType_GetSlot(Py_TYPE(slot), Py_tp_descr_set);
        if (!value || set(slot, new, value) < 0) Py_CLEAR(new);
    }
    return new;
}

PyDoc_STRVAR(made_doc,
"made(kind, slots, columns, count) -> [value, ...]\n\n"
"Make so many values of a class. `slots` are the descriptors of all its slots, and `columns` has as many\n"
"lists of what goes there, or what is the same in all.");

static PyObject *made(PyObject *module, PyObject *args) {
    (void)module;
    PyTypeObject *kind;
    PyObject *slots, *columns;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "O!O!O!n", &PyType_Type, &kind, &PyTuple_Type, &slots, &PyTuple_Type, &columns,
                          &count))
        return NULL;
    int is_good = PyTuple_Size(slots) == PyTuple_Size(columns) && count >= 0;
    for (Py_ssize_t i = 0; is_good && i < PyTuple_Size(slots); i++)
        is_good = PyType_GetSlot(Py_TYPE(PyTuple_GetItem(slots, i)), Py_tp_descr_set) != NULL;
    if (!is_good) {
        PyErr_SetString(PyExc_TypeError, "a class has as many slots as there are columns");
        return NULL;
    }
    PyObject *list = PyList_New(count);
    for (Py_ssize_t row = 0; list && row < count; row++) {
        PyObject *new = made_one(kind, slots, columns, row);
        if (!new) Py_CLEAR(list);
        else PyList_SetItem(list, row, new);
    }
    return list;
}

static PyMethodDef methods[] = {
    {"entries", entries, METH_VARARGS, entries_doc},
    {"made", made, METH_VARARGS, made_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_columns", "Thousands of tensors at once.", 0, methods, 0, 0, 0, 0,
};

PyMODINIT_FUNC PyInit__columns(void) { return PyModule_Create(&definition); }
