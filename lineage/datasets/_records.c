/* The inner loops of a data set's manifest: lines of JSON to record digests, and trees to roots.

   Every function gives what its namesake in Python gives (`lineage/manifests/records.py`, `tree.py`), or says that
   it is not sure: a line that it does not take is named, and Python takes or refuses it. Nothing here reports an
   error in the data.

   BLAKE3 is written from its specification (O'Connor, Aumasson, Neves and Wilcox-O'Hearn, 2020), for little-endian
   and big-endian machines alike. The interpreter's lock is not held while there is work. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* BLAKE3 */

enum { CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8, BLOCK = 64, CHUNK = 1024, DIGEST = 32 };

static const uint32_t IV[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                               0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

static const uint8_t SCHEDULE[7][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8},
    {3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1}, {10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6},
    {12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4}, {9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7},
    {11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13}};

#define TURN(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#define QUARTER(a, b, c, d, x, y)                                                                                      \
    a += b + (x), d = TURN(d ^ a, 16), c += d, b = TURN(b ^ c, 12);                                                    \
    a += b + (y), d = TURN(d ^ a, 8), c += d, b = TURN(b ^ c, 7)
#define ROUND(r)                                                                                                       \
    QUARTER(v0, v4, v8, v12, m[SCHEDULE[r][0]], m[SCHEDULE[r][1]]);                                                    \
    QUARTER(v1, v5, v9, v13, m[SCHEDULE[r][2]], m[SCHEDULE[r][3]]);                                                    \
    QUARTER(v2, v6, v10, v14, m[SCHEDULE[r][4]], m[SCHEDULE[r][5]]);                                                   \
    QUARTER(v3, v7, v11, v15, m[SCHEDULE[r][6]], m[SCHEDULE[r][7]]);                                                   \
    QUARTER(v0, v5, v10, v15, m[SCHEDULE[r][8]], m[SCHEDULE[r][9]]);                                                   \
    QUARTER(v1, v6, v11, v12, m[SCHEDULE[r][10]], m[SCHEDULE[r][11]]);                                                 \
    QUARTER(v2, v7, v8, v13, m[SCHEDULE[r][12]], m[SCHEDULE[r][13]]);                                                  \
    QUARTER(v3, v4, v9, v14, m[SCHEDULE[r][14]], m[SCHEDULE[r][15]])

static void compress(uint32_t cv[8], const uint8_t *block, uint32_t size, uint64_t counter, uint32_t flags) {
    uint32_t m[16];
    for (int i = 0; i < 16; i++)
        m[i] = block[4 * i] | (uint32_t)block[4 * i + 1] << 8 | (uint32_t)block[4 * i + 2] << 16 |
               (uint32_t)block[4 * i + 3] << 24;
    uint32_t v0 = cv[0], v1 = cv[1], v2 = cv[2], v3 = cv[3], v4 = cv[4], v5 = cv[5], v6 = cv[6], v7 = cv[7];
    uint32_t v8 = IV[0], v9 = IV[1], v10 = IV[2], v11 = IV[3], v12 = (uint32_t)counter,
             v13 = (uint32_t)(counter >> 32), v14 = size, v15 = flags;
    ROUND(0);
    ROUND(1);
    ROUND(2);
    ROUND(3);
    ROUND(4);
    ROUND(5);
    ROUND(6);
    cv[0] = v0 ^ v8, cv[1] = v1 ^ v9, cv[2] = v2 ^ v10, cv[3] = v3 ^ v11;
    cv[4] = v4 ^ v12, cv[5] = v5 ^ v13, cv[6] = v6 ^ v14, cv[7] = v7 ^ v15;
}

static void spell(const uint32_t cv[8], uint8_t *out) {
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 4; j++) out[4 * i + j] = (uint8_t)(cv[i] >> 8 * j);
}

static void subtree(uint32_t cv[8], const uint8_t *data, size_t size, uint64_t counter, uint32_t root) {
    memcpy(cv, IV, sizeof IV);
    if (size <= CHUNK) {
        uint32_t flags = CHUNK_START;
        while (size > BLOCK) {
            compress(cv, data, BLOCK, counter, flags);
            data += BLOCK, size -= BLOCK, flags = 0;
        }
        uint8_t last[BLOCK] = {0};
        if (size) memcpy(last, data, size);
        compress(cv, last, (uint32_t)size, counter, flags | CHUNK_END | root);
        return;
    }
    size_t left = CHUNK;
    while (2 * left < size) left *= 2;
    uint32_t a[8], b[8];
    uint8_t block[BLOCK];
    subtree(a, data, left, counter, 0);
    subtree(b, data + left, size - left, counter + left / CHUNK, 0);
    spell(a, block);
    spell(b, block + DIGEST);
    compress(cv, block, BLOCK, 0, PARENT | root);
}

static void blake3(const uint8_t *data, size_t size, uint8_t *out) {
    uint32_t cv[8];
    subtree(cv, data, size, 0, ROOT);
    spell(cv, out);
}

/* A record's frame: the tag with its NUL, and the length of the text. */

#define TAG "lineage/record/v1"
enum { HEAD = sizeof TAG + 8 };

static void digest_framed(uint8_t *framed, size_t size, uint8_t *out) {
    memcpy(framed, TAG, sizeof TAG);
    for (int i = 0; i < 8; i++) framed[sizeof TAG + i] = (uint8_t)((uint64_t)size >> 8 * i);
    blake3(framed, HEAD + size, out);
}

/* JSON to its canonical text. The text is never longer than the line, but for a comma. */

enum { MAX_MEMBERS = 256, MAX_NESTED = 32 };

struct member {
    const uint8_t *name;
    size_t name_size, at, size; /* where its text is in the output, comma and all; 0 for null */
};

struct writer {
    const uint8_t *in, *end;
    uint8_t *out, *spare;
    size_t at;
    struct member members[MAX_NESTED][MAX_MEMBERS];
};

static void skip_space(struct writer *w) {
    while (w->in < w->end && (*w->in == ' ' || *w->in == '\t' || *w->in == '\r')) w->in++;
}

/* The length of one well-formed UTF-8 sequence of more than a byte (Unicode, table 3-7); 0 where there is none. */
static int sequence(const uint8_t *p, const uint8_t *end) {
    const ptrdiff_t left = end - p;
    if (p[0] >= 0xC2 && p[0] < 0xE0) return left >= 2 && (p[1] & 0xC0) == 0x80 ? 2 : 0;
    if (p[0] >= 0xE0 && p[0] < 0xF0) {
        if (left < 3 || (p[1] & 0xC0) != 0x80 || (p[2] & 0xC0) != 0x80) return 0;
        return (p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] >= 0xA0) ? 0 : 3;
    }
    if (p[0] >= 0xF0 && p[0] < 0xF5) {
        if (left < 4 || (p[1] & 0xC0) != 0x80 || (p[2] & 0xC0) != 0x80 || (p[3] & 0xC0) != 0x80) return 0;
        return (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] >= 0x90) ? 0 : 4;
    }
    return 0;
}

static int hex4(const uint8_t *p) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        const int c = p[i];
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0) return -1;
        value = 16 * value + digit;
    }
    return value;
}

static void put_code(struct writer *w, int c) {
    static const char *const HEX = "0123456789abcdef";
    uint8_t *o = w->out + w->at;
    const char *short_form = c == '\n' ? "\\n" : c == '\t' ? "\\t" : c == '\r' ? "\\r" : c == '\b' ? "\\b"
                             : c == '\f' ? "\\f" : c == '"' ? "\\\"" : c == '\\' ? "\\\\" : NULL;
    if (short_form) {
        memcpy(o, short_form, 2);
        w->at += 2;
    } else if (c < 0x20) {
        memcpy(o, "\\u00", 4);
        o[4] = (uint8_t)HEX[c >> 4], o[5] = (uint8_t)HEX[c & 15];
        w->at += 6;
    } else if (c < 0x80) {
        o[0] = (uint8_t)c;
        w->at += 1;
    } else if (c < 0x800) {
        o[0] = (uint8_t)(0xC0 | c >> 6), o[1] = (uint8_t)(0x80 | (c & 63));
        w->at += 2;
    } else if (c < 0x10000) {
        o[0] = (uint8_t)(0xE0 | c >> 12), o[1] = (uint8_t)(0x80 | (c >> 6 & 63)), o[2] = (uint8_t)(0x80 | (c & 63));
        w->at += 3;
    } else {
        o[0] = (uint8_t)(0xF0 | c >> 18), o[1] = (uint8_t)(0x80 | (c >> 12 & 63));
        o[2] = (uint8_t)(0x80 | (c >> 6 & 63)), o[3] = (uint8_t)(0x80 | (c & 63));
        w->at += 4;
    }
}

static int put_escape(struct writer *w) {
    if (w->end - w->in < 2) return 0;
    const int c = w->in[1];
    w->in += 2;
    switch (c) {
    case '"': case '\\': case '/': put_code(w, c); return 1;
    case 'n': put_code(w, '\n'); return 1;
    case 't': put_code(w, '\t'); return 1;
    case 'r': put_code(w, '\r'); return 1;
    case 'b': put_code(w, '\b'); return 1;
    case 'f': put_code(w, '\f'); return 1;
    case 'u': break;
    default: return 0;
    }
    int code = w->end - w->in >= 4 ? hex4(w->in) : -1;
    if (code < 0 || (code >= 0xDC00 && code < 0xE000)) return 0;
    w->in += 4;
    if (code >= 0xD800 && code < 0xDC00) {
        const int low = w->end - w->in >= 6 && w->in[0] == '\\' && w->in[1] == 'u' ? hex4(w->in + 2) : -1;
        if (low < 0xDC00 || low >= 0xE000) return 0;
        w->in += 6;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    put_code(w, code);
    return 1;
}

static int put_string(struct writer *w) {
    w->out[w->at++] = *w->in++;
    for (;;) {
        const uint8_t *start = w->in;
        while (w->in < w->end && *w->in >= 0x20 && *w->in < 0x80 && *w->in != '"' && *w->in != '\\') w->in++;
        memcpy(w->out + w->at, start, (size_t)(w->in - start));
        w->at += (size_t)(w->in - start);
        if (w->in == w->end || *w->in < 0x20) return 0;
        if (*w->in == '"') {
            w->out[w->at++] = *w->in++;
            return 1;
        }
        if (*w->in == '\\') {
            if (!put_escape(w)) return 0;
        } else {
            const int size = sequence(w->in, w->end);
            if (!size) return 0;
            memcpy(w->out + w->at, w->in, (size_t)size);
            w->at += (size_t)size, w->in += size;
        }
    }
}

/* A number that is its own canonical text: at most 15 digits, no exponent, no zeros to drop, not so small that an
   exponent belongs. A decimal of 15 digits is the shortest that gives its double. */
static int put_number(struct writer *w) {
    const uint8_t *p = w->in, *start = p;
    if (p < w->end && *p == '-') p++;
    const uint8_t *whole = p;
    while (p < w->end && *p >= '0' && *p <= '9') p++;
    const ptrdiff_t whole_size = p - whole;
    if (whole_size == 0 || (*whole == '0' && whole_size > 1)) return 0;
    ptrdiff_t digits = whole_size;
    if (p < w->end && *p == '.') {
        const uint8_t *fraction = ++p;
        while (p < w->end && *p >= '0' && *p <= '9') p++;
        const ptrdiff_t size = p - fraction;
        digits += size;
        if (size == 0 || p[-1] == '0') return 0;
        if (*whole == '0' && size > 5 && memcmp(fraction, "000000", size < 6 ? (size_t)size : 6) == 0) return 0;
    } else if (*whole == '0' && start != whole) {
        return 0;
    }
    if (digits > 15 || (p < w->end && (*p == 'e' || *p == 'E'))) return 0;
    memcpy(w->out + w->at, start, (size_t)(p - start));
    w->at += (size_t)(p - start), w->in = p;
    return 1;
}

static int put_word(struct writer *w, const char *word, size_t size) {
    if ((size_t)(w->end - w->in) < size || memcmp(w->in, word, size) != 0) return 0;
    memcpy(w->out + w->at, word, size);
    w->at += size, w->in += size;
    return 1;
}

static int name_order(const struct member *a, const struct member *b) {
    const int order = memcmp(a->name, b->name, a->name_size < b->name_size ? a->name_size : b->name_size);
    return order ? order : (a->name_size > b->name_size) - (a->name_size < b->name_size);
}

/* Put members in order; 0 if a name is there twice. */
static int sort_members(struct writer *w, struct member *members, int count, size_t start) {
    int is_sorted = 1;
    for (int i = 1; i < count; i++) {
        const struct member one = members[i];
        int j = i;
        for (; j > 0; j--) {
            const int order = name_order(&members[j - 1], &one);
            if (order == 0) return 0;
            if (order < 0) break;
            members[j] = members[j - 1];
        }
        members[j] = one;
        is_sorted &= j == i;
    }
    if (is_sorted) return 1;
    size_t at = 0;
    for (int i = 0; i < count; i++) {
        memcpy(w->spare + at, w->out + members[i].at, members[i].size);
        at += members[i].size;
    }
    memcpy(w->out + start, w->spare, at);
    return 1;
}

static int put_value(struct writer *w, int depth);

static int put_object(struct writer *w, int depth) {
    if (depth >= MAX_NESTED) return 0;
    struct member *members = w->members[depth];
    int count = 0;
    w->out[w->at++] = *w->in++;
    const size_t start = w->at;
    skip_space(w);
    if (w->in < w->end && *w->in == '}') {
        w->out[w->at++] = *w->in++;
        return 1;
    }
    for (;;) {
        skip_space(w);
        if (count == MAX_MEMBERS || w->in == w->end || *w->in != '"') return 0;
        struct member *one = &members[count++];
        one->at = w->at, one->name = w->in + 1;
        const uint8_t *p = w->in + 1;
        while (p < w->end && *p >= 0x20 && *p < 0x80 && *p != '"' && *p != '\\') p++;
        if (p == w->end || *p != '"') return 0; /* a name whose order is not that of its bytes, perhaps */
        one->name_size = (size_t)(p - one->name);
        memcpy(w->out + w->at, w->in, one->name_size + 2);
        w->at += one->name_size + 2, w->in = p + 1;
        skip_space(w);
        if (w->in == w->end || *w->in != ':') return 0;
        w->out[w->at++] = *w->in++;
        skip_space(w);
        const int is_null = w->in < w->end && *w->in == 'n';
        if (!put_value(w, depth + 1)) return 0;
        if (is_null)
            w->at = one->at;
        else
            w->out[w->at++] = ',';
        one->size = w->at - one->at;
        skip_space(w);
        if (w->in == w->end) return 0;
        const uint8_t mark = *w->in++;
        if (mark == '}') break;
        if (mark != ',') return 0;
    }
    if (!sort_members(w, members, count, start)) return 0;
    if (w->at == start)
        w->out[w->at++] = '}';
    else
        w->out[w->at - 1] = '}';
    return 1;
}

static int put_list(struct writer *w, int depth) {
    if (depth >= MAX_NESTED) return 0;
    w->out[w->at++] = *w->in++;
    skip_space(w);
    if (w->in < w->end && *w->in == ']') {
        w->out[w->at++] = *w->in++;
        return 1;
    }
    for (;;) {
        skip_space(w);
        if (!put_value(w, depth + 1)) return 0;
        skip_space(w);
        if (w->in == w->end) return 0;
        const uint8_t mark = *w->in++;
        w->out[w->at++] = mark;
        if (mark == ']') return 1;
        if (mark != ',') return 0;
    }
}

static int put_value(struct writer *w, int depth) {
    if (w->in == w->end) return 0;
    switch (*w->in) {
    case '{': return put_object(w, depth);
    case '[': return put_list(w, depth);
    case '"': return put_string(w);
    case 't': return put_word(w, "true", 4);
    case 'f': return put_word(w, "false", 5);
    case 'n': return put_word(w, "null", 4);
    default: return put_number(w);
    }
}

struct lines {
    uint8_t *digests;
    int64_t *unsure; /* record, line, start and end of each line that is left to Python */
    size_t records, lines, count, room_digests, room_unsure;
};

static int grow(void **room, size_t *has, size_t needs, size_t each) {
    if (needs <= *has) return 1;
    const size_t wanted = needs + needs / 2 + 1024;
    void *larger = realloc(*room, wanted * each);
    if (!larger) return 0;
    *room = larger, *has = wanted;
    return 1;
}

/* 0 where there is no memory. */
static int read_lines(const uint8_t *data, size_t size, struct lines *found) {
    struct writer *w = malloc(sizeof *w);
    uint8_t *buffers = NULL;
    size_t room = 0;
    int is_good = w != NULL;
    for (const uint8_t *p = data, *stop = data + size; is_good && p < stop;) {
        const uint8_t *end = memchr(p, '\n', (size_t)(stop - p));
        if (!end) end = stop;
        const size_t needs = HEAD + (size_t)(end - p) + 16;
        if (needs > room) {
            free(buffers);
            room = needs + needs / 2;
            buffers = malloc(2 * room);
            if (!buffers) {
                is_good = 0;
                break;
            }
        }
        w->in = p, w->end = end, w->at = 0, w->out = buffers + HEAD, w->spare = buffers + room;
        skip_space(w);
        found->lines++;
        if (w->in < end) {
            is_good = grow((void **)&found->digests, &found->room_digests, found->records + 1, DIGEST);
            if (!is_good) break;
            uint8_t *out = found->digests + DIGEST * found->records;
            int is_sure = put_value(w, 0);
            skip_space(w);
            if (is_sure && w->in == end) {
                digest_framed(buffers, w->at, out);
            } else {
                memset(out, 0, DIGEST);
                is_good = grow((void **)&found->unsure, &found->room_unsure, 4 * (found->count + 1), sizeof(int64_t));
                if (!is_good) break;
                int64_t *row = found->unsure + 4 * found->count++;
                row[0] = (int64_t)found->records, row[1] = (int64_t)found->lines - 1;
                row[2] = p - data, row[3] = end - data;
            }
            found->records++;
        }
        p = end + 1;
    }
    free(w);
    free(buffers);
    return is_good;
}

PyDoc_STRVAR(digest_lines_doc, "digest_lines(data)\n--\n\n"
             "Return the digests of the records in lines of JSON, the number of lines, and for each line that is left\n"
             "to Python four int64: its record and line, counted from 0, and where it starts and ends.");

static PyObject *digest_lines(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "y*", &data)) return NULL;
    struct lines found = {0};
    PyThreadState *others = PyEval_SaveThread();
    const int is_good = read_lines(data.buf, (size_t)data.len, &found);
    PyEval_RestoreThread(others);
    PyBuffer_Release(&data);
    PyObject *result = !is_good ? PyErr_NoMemory()
                                : Py_BuildValue("y#ny#", found.digests ? (char *)found.digests : "",
                                                (Py_ssize_t)(DIGEST * found.records), (Py_ssize_t)found.lines,
                                                found.unsure ? (char *)found.unsure : "",
                                                (Py_ssize_t)(4 * sizeof(int64_t) * found.count));
    free(found.digests);
    free(found.unsure);
    return result;
}

PyDoc_STRVAR(digest_texts_doc, "digest_texts(data, offsets)\n--\n\n"
             "Return the digests of canonical texts that stand one behind the other in `data`; `offsets` are int64,\n"
             "one more than there are texts.");

static PyObject *digest_texts(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data, offsets;
    if (!PyArg_ParseTuple(args, "y*y*", &data, &offsets)) return NULL;
    const Py_ssize_t count = offsets.len / (Py_ssize_t)sizeof(int64_t) - 1;
    const int64_t *at = offsets.buf;
    int is_good = count >= 0 && at[0] >= 0 && at[count] <= data.len;
    int64_t most = 0;
    for (Py_ssize_t i = 0; is_good && i < count; i++) {
        is_good = at[i + 1] >= at[i];
        if (at[i + 1] - at[i] > most) most = at[i + 1] - at[i];
    }
    PyObject *result = is_good ? PyBytes_FromStringAndSize(NULL, DIGEST * count) : NULL;
    if (!is_good) PyErr_SetString(PyExc_ValueError, "the offsets are not those of texts");
    if (result) {
        uint8_t *out = (uint8_t *)PyBytes_AsString(result); /* nobody else has it yet */
        PyThreadState *others = PyEval_SaveThread();
        uint8_t *framed = malloc(HEAD + (size_t)most + 1);
        for (Py_ssize_t i = 0; framed && i < count; i++) {
            const size_t size = (size_t)(at[i + 1] - at[i]);
            memcpy(framed + HEAD, (const uint8_t *)data.buf + at[i], size);
            digest_framed(framed, size, out + DIGEST * i);
        }
        PyEval_RestoreThread(others);
        if (!framed) {
            Py_CLEAR(result);
            PyErr_NoMemory();
        }
        free(framed);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&offsets);
    return result;
}

/* Trees */

enum { ENTRY = 40 };

static void hash_short(const uint8_t *data, size_t size, uint8_t mark, uint8_t *out) {
    uint8_t marked[1 + BLOCK];
    marked[0] = mark;
    memcpy(marked + 1, data, size);
    blake3(marked, 1 + size, out);
}

static void set_hash(const uint8_t *entries, size_t count, int depth, uint8_t *out) {
    if (count == 0) {
        memset(out, 0, DIGEST);
        return;
    }
    if (count == 1 || depth > 255) { /* no more than one has all bits alike */
        hash_short(entries, ENTRY, 0, out);
        return;
    }
    size_t low = 0, high = count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (entries[ENTRY * middle + (size_t)(depth >> 3)] >> (7 - (depth & 7)) & 1)
            high = middle;
        else
            low = middle + 1;
    }
    uint8_t both[2 * DIGEST];
    set_hash(entries, low, depth + 1, both);
    set_hash(entries + ENTRY * low, count - low, depth + 1, both + DIGEST);
    hash_short(both, 2 * DIGEST, 1, out);
}

static void order_hash(const uint8_t *digests, size_t count, uint8_t *out) {
    if (count == 1) {
        hash_short(digests, DIGEST, 0, out);
        return;
    }
    size_t left = 1;
    while (2 * left < count) left *= 2;
    uint8_t both[2 * DIGEST];
    order_hash(digests, left, both);
    order_hash(digests + DIGEST * left, count - left, both + DIGEST);
    hash_short(both, 2 * DIGEST, 1, out);
}

PyDoc_STRVAR(set_tree_doc, "set_tree(entries, depth)\n--\n\n"
             "Return the hash of the tree from `depth` on over entries of 40 bytes: digests in order and distinct, each\n"
             "with its count as a little-endian uint64.");

static PyObject *set_tree(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data;
    int depth;
    if (!PyArg_ParseTuple(args, "y*i", &data, &depth)) return NULL;
    uint8_t out[DIGEST];
    const int is_good = data.len % ENTRY == 0 && depth >= 0 && depth < 256;
    if (is_good) {
        PyThreadState *others = PyEval_SaveThread();
        set_hash(data.buf, (size_t)data.len / ENTRY, depth, out);
        PyEval_RestoreThread(others);
    }
    PyBuffer_Release(&data);
    if (!is_good) {
        PyErr_SetString(PyExc_ValueError, "no entries of 40 bytes, or no such depth");
        return NULL;
    }
    return PyBytes_FromStringAndSize((char *)out, DIGEST);
}

PyDoc_STRVAR(order_tree_doc, "order_tree(digests)\n--\n\nReturn the RFC 9162 root over digests of 32 bytes, one or more.");

static PyObject *order_tree(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "y*", &data)) return NULL;
    uint8_t out[DIGEST];
    const int is_good = data.len % DIGEST == 0 && data.len > 0;
    if (is_good) {
        PyThreadState *others = PyEval_SaveThread();
        order_hash(data.buf, (size_t)data.len / DIGEST, out);
        PyEval_RestoreThread(others);
    }
    PyBuffer_Release(&data);
    if (!is_good) {
        PyErr_SetString(PyExc_ValueError, "no digests of 32 bytes");
        return NULL;
    }
    return PyBytes_FromStringAndSize((char *)out, DIGEST);
}

static PyMethodDef methods[] = {
    {"digest_lines", digest_lines, METH_VARARGS, digest_lines_doc},
    {"digest_texts", digest_texts, METH_VARARGS, digest_texts_doc},
    {"set_tree", set_tree, METH_VARARGS, set_tree_doc},
    {"order_tree", order_tree, METH_VARARGS, order_tree_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_records", "The inner loops of a data set's manifest.", 0, methods, 0, 0, 0, 0,
};

PyMODINIT_FUNC PyInit__records(void) { return PyModule_Create(&definition); }
