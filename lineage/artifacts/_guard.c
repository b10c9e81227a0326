/* Mapped windows whose file is cut short: zeros and a mark in place of SIGBUS.

   To read a page of a mapping that its file no longer reaches raises SIGBUS, which ends the process.
   While a window is watched, the handler below maps zeros over the rest of it, marks it and returns:
   the reading goes on, over zeros, and whoever leaves the window finds the mark and gives up what was
   read. Every other SIGBUS is handed to whatever handled it before.

   The handler runs between any two instructions of any thread, so it takes no lock, allocates
   nothing and calls only what POSIX lists as async-signal-safe, and mmap. POSIX does not list that
   one; it is a plain system call in every libc in use (musl's first waits for threads that are inside
   its own semaphores or barriers, and none of those reads a window there).

   Handlers that others install later are left alone: what they do not hand on is not seen here, and a
   file cut short ends the process then, as without this. Source: POSIX.1-2017, mmap ("references
   within the address range starting at pa and continuing for len bytes to whole pages following the
   end of an object shall result in delivery of a SIGBUS signal") and sigaction. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#if ATOMIC_POINTER_LOCK_FREE != 2 || ATOMIC_INT_LOCK_FREE != 2 || ATOMIC_LONG_LOCK_FREE != 2
#error "a signal handler may not take the lock that such atomics hide"
#endif

enum { SLOTS = 1024 }; /* windows at once: a thread has one */

/* A watched window, or room for one. `turn` is odd while the other members do not belong together:
   who reads it, then them, then it again and finds the same even number has read them as one. */
struct slot {
    atomic_int is_taken, is_cut;
    atomic_ulong turn;
    _Atomic uintptr_t begin, end;
};

static struct slot slots[SLOTS];
static atomic_uint next_slot; /* where to look for room first */
static struct sigaction before;
static uintptr_t page;
static int is_installed; /* read and written with the interpreter's lock held */

/* Whether `at` lies in this window; the one who reads the window keeps it from changing meanwhile. */
static int holds(struct slot *slot, uintptr_t at, uintptr_t *end) {
    unsigned long turn = atomic_load(&slot->turn);
    uintptr_t begin = atomic_load(&slot->begin);
    *end = atomic_load(&slot->end);
    return turn % 2 == 0 && at >= begin && at < *end && atomic_load(&slot->turn) == turn;
}

/* Put zeros in place of the rest of the window that `at` lies in: of all of it, so that a window
   faults once and not at every page. */
static int mend(uintptr_t at) {
    for (int i = 0; i < SLOTS; i++) {
        uintptr_t end, from = at & ~(page - 1);
        if (!holds(&slots[i], at, &end)) continue;
        atomic_store(&slots[i].is_cut, 1); /* first, as another thread may read the zeros at once */
        return mmap((void *)from, end - from, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
               MAP_FAILED;
    }
    return 0;
}

static int has_function(void) {
    return before.sa_flags & SA_SIGINFO || (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN);
}

/* Do what the system would have done without this handler. */
static void hand_on(int number, siginfo_t *info, void *context) {
    int is_fault = info->si_code > 0; /* of an instruction, not sent by a process */
    if (!has_function()) {
        if (before.sa_handler == SIG_IGN && !is_fault) return;
        signal(number, SIG_DFL);
        if (!is_fault) raise(number); /* comes when this returns; a fault comes again by itself */
        return;
    }
    sigset_t own;
    sigemptyset(&own);
    sigaddset(&own, number);
    if (before.sa_flags & (int)SA_RESETHAND) signal(number, SIG_DFL);
    pthread_sigmask(SIG_BLOCK, &before.sa_mask, NULL); /* until this returns */
    if (before.sa_flags & SA_NODEFER) pthread_sigmask(SIG_UNBLOCK, &own, NULL);
    if (before.sa_flags & SA_SIGINFO) before.sa_sigaction(number, info, context);
    else before.sa_handler(number);
}

static void on_bus(int number, siginfo_t *info, void *context) {
    int error = errno;
    if (info->si_code != BUS_ADRERR || !mend((uintptr_t)info->si_addr)) hand_on(number, info, context);
    errno = error;
}

/* Whether the handler is there. `before` is filled first: a signal may come as soon as it is. System
   calls that a sent signal interrupts go on or end as they would have. */
static int install(void) {
    if (is_installed) return 1;
    long size = sysconf(_SC_PAGESIZE);
    struct sigaction now = {0};
    if (size <= 0 || sigaction(SIGBUS, NULL, &before) < 0) return 0;
    now.sa_sigaction = on_bus;
    now.sa_flags = SA_SIGINFO | SA_ONSTACK | (has_function() ? before.sa_flags & (int)SA_RESTART : SA_RESTART);
    sigemptyset(&now.sa_mask);
    page = (uintptr_t)size;
    return is_installed = sigaction(SIGBUS, &now, NULL) == 0;
}

static const char *const WATCHED = "a watched window", *const LEFT = "a window that was left";

static int forget(struct slot *slot) {
    atomic_fetch_add(&slot->turn, 1);
    int is_cut = atomic_load(&slot->is_cut);
    atomic_store(&slot->begin, 0);
    atomic_store(&slot->end, 0);
    atomic_fetch_add(&slot->turn, 1);
    atomic_store(&slot->is_taken, 0);
    return is_cut;
}

static void drop(PyObject *watch) { forget(PyCapsule_GetPointer(watch, WATCHED)); }

PyDoc_STRVAR(watch_doc,
"watch(window) -> capsule or None\n\n"
"Watch mapped bytes, which begin with a page, until `leave`, or until nobody has the capsule any more:\n"
"one of the two must come before they are unmapped. None, and the window is not watched, where there\n"
"is no room for more or the handler could not be installed. The first call installs it.");

static PyObject *watch(PyObject *module, PyObject *arg) {
    (void)module;
    Py_buffer window;
    if (PyObject_GetBuffer(arg, &window, PyBUF_SIMPLE) < 0) return NULL;
    uintptr_t begin = (uintptr_t)window.buf, end = begin + (uintptr_t)window.len;
    PyBuffer_Release(&window);
    if (!install()) Py_RETURN_NONE;
    if (begin % page) {
        PyErr_SetString(PyExc_ValueError, "a window begins with a page");
        return NULL;
    }
    unsigned first = atomic_fetch_add(&next_slot, 1);
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot *slot = &slots[(first + i) % SLOTS];
        int free = 0;
        if (!atomic_compare_exchange_strong(&slot->is_taken, &free, 1)) continue;
        atomic_fetch_add(&slot->turn, 1);
        atomic_store(&slot->is_cut, 0);
        atomic_store(&slot->begin, begin);
        atomic_store(&slot->end, end);
        atomic_fetch_add(&slot->turn, 1);
        PyObject *found = PyCapsule_New(slot, WATCHED, drop);
        if (!found) forget(slot);
        return found;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(leave_doc,
"leave(capsule) -> bool\n\n"
"Watch a window no longer, and give back its pages, for which the interpreter does not wait: to unmap\n"
"it is soon done then. Return whether some of it was not there when it was read, and zeros in its place.");

static PyObject *leave(PyObject *module, PyObject *arg) {
    (void)module;
    struct slot *slot = PyCapsule_GetPointer(arg, WATCHED); /* no second time, under the new name */
    if (!slot || PyCapsule_SetName(arg, LEFT) < 0 || PyCapsule_SetDestructor(arg, NULL) < 0) return NULL;
    const uintptr_t begin = atomic_load(&slot->begin), end = atomic_load(&slot->end);
    const int is_cut = forget(slot);
    Py_BEGIN_ALLOW_THREADS
    madvise((void *)begin, end - begin, MADV_DONTNEED); /* what it cannot give back is unmapped later */
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(is_cut);
}

PyDoc_STRVAR(watched_doc, "watched() -> int\n\nReturn how many windows are watched now.");

static PyObject *watched(PyObject *module, PyObject *none) {
    (void)module, (void)none;
    long count = 0;
    for (int i = 0; i < SLOTS; i++) count += atomic_load(&slots[i].is_taken);
    return PyLong_FromLong(count);
}

static PyMethodDef methods[] = {
    {"leave", leave, METH_O, leave_doc},
    {"watch", watch, METH_O, watch_doc},
    {"watched", watched, METH_NOARGS, watched_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_guard", "Windows that may be cut short while they are read.", 0, methods, 0, 0, 0, 0,
};

PyMODINIT_FUNC PyInit__guard(void) { return PyModule_Create(&definition); }
