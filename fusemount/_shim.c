/* The part of FUSE that pyfuse3 cannot express, as replacements for a few functions of libfuse that it calls.
 *
 * Loaded with RTLD_GLOBAL before pyfuse3, so that pyfuse3's calls bind here first (fusemount/shim.py does that). It
 * works with every libfuse 3: replies that libfuse does not know are sent as raw bytes.
 *
 * - fuse_session_receive_buf: takes requests off the device. What needs no thought (forget, release) is answered here;
 *   then a Python function is asked, without a trip through the event loop, and only what it leaves goes on to libfuse
 *   and pyfuse3. Several processes share one mount, so devices are non-blocking and one may lose the race for a request;
 *   pyfuse3 ends the mount on EAGAIN but goes on after EINTR.
 * - fuse_reply_buf: large answers leave the interpreter to other threads.
 * - fuse_reply_open: opens files and folders with any FOPEN flag, and with a passthrough backing id.
 * - fuse_add_direntry_plus: puts a whole page of a folder, packed beforehand, in place of one entry.
 * - fuse_reply_entry, fuse_reply_attr, fuse_add_direntry_plus: st_ino is the catalog's row, not the node id, so a file
 *   keeps its inode number when its I/O mode changes.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define FUSE_USE_VERSION 34
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdint.h>
#include <sys/uio.h>
#include <time.h>

enum {
    TURN_NS = 2000000,        /* how long requests are answered before the event loop has its turn */
    SOON_NS = 150000,         /* a reader that just got its answer is likely to ask again within that */
    NAP_NS = 25000,           /* how much longer a process stays out of the next race for each one that it lost */
    MOST_NAPS = 16,
    LARGE_REPLY = 128 << 10,  /* bytes from which copying takes long enough to let other threads run meanwhile */
    PAGE = 4096, DEFAULT_MAX_PAGES = 256,
};
static const char OUR_ATTRIBUTES[] = "user.";

static size_t request_bytes;
static int is_serving;
static PyObject *answer;
static uint64_t next_fh;
static uint32_t next_flags;
static int next_backing_id, has_next;
static PyObject *next_page;
static unsigned incarnation_bits;

static void *original(const char *name)
{
    static void *library;
    if (!library) {
        Dl_info where;
        if (!dladdr((void *)fuse_reply_iov, &where) || !(library = dlopen(where.dli_fname, RTLD_LAZY)))
            abort();
    }
    return dlsym(library, name);
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

/* A reply that comes too late (interrupted, or sent again to another process) is refused with ENOENT, which is fine;
 * a mount that has ended is noticed by the next read. */
static void reply(int device, uint64_t unique, int error, const void *data, size_t size)
{
    struct fuse_out_header head = { .len = sizeof head + size, .error = -error, .unique = unique };
    struct iovec parts[] = { { &head, sizeof head }, { (void *)data, size } };
    ssize_t sent;
    if (size < LARGE_REPLY) {
        sent = writev(device, parts, size ? 2 : 1);
    } else {
        Py_BEGIN_ALLOW_THREADS
        sent = writev(device, parts, 2);
        Py_END_ALLOW_THREADS
    }
    (void)sent;
}

static int is_answered_in_python(int device, const struct fuse_in_header *in, size_t size)
{
    PyObject *found = PyObject_CallFunction(answer, "IKy#", in->opcode, (unsigned long long)in->nodeid,
                                            (const char *)(in + 1), (Py_ssize_t)(size - sizeof *in));
    if (!found) {
        PyErr_WriteUnraisable(answer); /* pyfuse3's way is still open */
        return 0;
    }
    int is_answered = found != Py_None;
    if (PyLong_Check(found)) {
        reply(device, in->unique, (int)PyLong_AsLong(found), NULL, 0);
    } else if (is_answered) {
        Py_buffer bytes;
        if (PyObject_GetBuffer(found, &bytes, PyBUF_SIMPLE)) {
            PyErr_WriteUnraisable(answer);
            is_answered = 0;
        } else {
            reply(device, in->unique, 0, bytes.buf, (size_t)bytes.len);
            PyBuffer_Release(&bytes);
        }
    }
    Py_DECREF(found);
    return is_answered;
}

static int is_answered(int device, struct fuse_in_header *in, size_t size)
{
    switch (in->opcode) {
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT: /* pyfuse3 interrupts nothing */
        return 1;
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
        reply(device, in->unique, 0, NULL, 0);
        return 1;
    case FUSE_FLUSH:
        reply(device, in->unique, ENOSYS, NULL, 0);
        return 1;
    case FUSE_GETXATTR: /* `ls -l` asks for security attributes of every file */
        if (strncmp((char *)(in + 1) + sizeof(struct fuse_getxattr_in), OUR_ATTRIBUTES, sizeof OUR_ATTRIBUTES - 1)) {
            reply(device, in->unique, ENODATA, NULL, 0);
            return 1;
        }
        return 0;
    case FUSE_READ: /* a file that was opened without a message has handle 0; ours are node ids */
        if (!((struct fuse_read_in *)(in + 1))->fh)
            ((struct fuse_read_in *)(in + 1))->fh = in->nodeid;
        break;
    }
    return answer && is_answered_in_python(device, in, size);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (int64_t)1000000000 + now.tv_nsec;
}

static int comes_soon(int device)
{
    struct pollfd request = { .fd = device, .events = POLLIN };
    struct timespec soon = { .tv_nsec = SOON_NS };
    int count;
    Py_BEGIN_ALLOW_THREADS
    count = ppoll(&request, 1, &soon, NULL);
    Py_END_ALLOW_THREADS
    return count > 0;
}

/* A request wakes every process of the mount, and one of them gets it. Where one is enough, the others stay out for
 * longer and longer: they would only take its CPU. */
static ssize_t take(int device, void *buffer)
{
    static int races_lost;
    ssize_t got = read(device, buffer, request_bytes);
    if (got >= 0) {
        races_lost = 0;
    } else if (errno == EAGAIN && is_serving) {
        struct timespec nap = { .tv_nsec = NAP_NS * races_lost };
        races_lost += races_lost < MOST_NAPS;
        Py_BEGIN_ALLOW_THREADS
        nanosleep(&nap, NULL);
        Py_END_ALLOW_THREADS
        got = read(device, buffer, request_bytes);
    }
    return got;
}

int fuse_session_receive_buf(struct fuse_session *session, struct fuse_buf *buf)
{
    int device = fuse_session_fd(session), answered = 0;
    if (!buf->mem && !(buf->mem = malloc(request_bytes)))
        return -ENOMEM;
    buf->flags = 0;
    for (int64_t turn_ends = now_ns() + TURN_NS; !answered || now_ns() < turn_ends; answered++) {
        ssize_t got = answered ? read(device, buf->mem, request_bytes) : take(device, buf->mem);
        if (got < 0 && errno == EAGAIN && answered && comes_soon(device))
            got = read(device, buf->mem, request_bytes);
        if (got < 0) {
            if (errno == EAGAIN || errno == EINTR || errno == ENOENT)
                return -EINTR;
            if (errno != ENODEV)
                return -errno;
            fuse_session_exit(session);
            return 0;
        }
        if (!is_serving || (size_t)got < sizeof(struct fuse_in_header) || !is_answered(device, buf->mem, (size_t)got)) {
            buf->size = (size_t)got;
            return (int)got;
        }
    }
    return -EINTR;
}

/* ---- replies of pyfuse3 --------------------------------------------------------------------------------------- */

static uint64_t inode_number(uint64_t node)
{
    return node >> incarnation_bits ? node >> incarnation_bits : node;
}

int fuse_reply_open(fuse_req_t req, const struct fuse_file_info *fi)
{
    struct fuse_open_out out = { .fh = fi->fh, .open_flags = FOPEN_KEEP_CACHE };
    if (has_next && next_fh == fi->fh) {
        out.open_flags = next_flags;
        memcpy((char *)&out + 12, &next_backing_id, sizeof next_backing_id); /* `padding` in older headers */
    }
    has_next = 0;
    return fuse_reply_iov(req, &(struct iovec){ &out, sizeof out }, 1);
}

/* pyfuse3 calls this holding the interpreter's lock, which the threads that fetch want meanwhile. */
int fuse_reply_buf(fuse_req_t req, const char *buf, size_t size)
{
    static int (*next)(fuse_req_t, const char *, size_t);
    int result;
    if (!next)
        next = original("fuse_reply_buf");
    if (size < LARGE_REPLY)
        return next(req, buf, size);
    Py_BEGIN_ALLOW_THREADS
    result = next(req, buf, size);
    Py_END_ALLOW_THREADS
    return result;
}

int fuse_reply_entry(fuse_req_t req, const struct fuse_entry_param *entry)
{
    static int (*next)(fuse_req_t, const struct fuse_entry_param *);
    if (!next)
        next = original("fuse_reply_entry");
    struct fuse_entry_param shown = *entry;
    shown.attr.st_ino = inode_number(entry->ino);
    return next(req, &shown);
}

int fuse_reply_attr(fuse_req_t req, const struct stat *attributes, double timeout)
{
    static int (*next)(fuse_req_t, const struct stat *, double);
    if (!next)
        next = original("fuse_reply_attr");
    struct stat shown = *attributes;
    shown.st_ino = inode_number(attributes->st_ino);
    return next(req, &shown, timeout);
}

size_t fuse_add_direntry_plus(fuse_req_t req, char *buf, size_t size, const char *name,
                              const struct fuse_entry_param *entry, off_t offset)
{
    static size_t (*next)(fuse_req_t, char *, size_t, const char *, const struct fuse_entry_param *, off_t);
    if (next_page) {
        size_t length = (size_t)PyBytes_GET_SIZE(next_page);
        if (length <= size)
            memcpy(buf, PyBytes_AS_STRING(next_page), length);
        Py_CLEAR(next_page);
        return length;
    }
    if (!next)
        next = original("fuse_add_direntry_plus");
    struct fuse_entry_param shown = *entry;
    shown.attr.st_ino = inode_number(entry->ino);
    return next(req, buf, size, name, &shown, offset);
}

/* ---- what Python calls ---------------------------------------------------------------------------------------- */

static PyObject *serve(PyObject *self, PyObject *args)
{
    PyObject *function = NULL;
    int device;
    (void)self;
    if (!PyArg_ParseTuple(args, "iI|O", &device, &incarnation_bits, &function))
        return NULL;
    int flags = fcntl(device, F_GETFL);
    if (flags < 0 || fcntl(device, F_SETFL, flags | O_NONBLOCK))
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_XINCREF(function);
    Py_XSETREF(answer, function);
    is_serving = 1;
    Py_RETURN_NONE;
}

static PyObject *answer_next_open(PyObject *self, PyObject *args)
{
    unsigned long long fh;
    unsigned flags;
    int id = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "KI|i", &fh, &flags, &id))
        return NULL;
    next_fh = fh;
    next_flags = flags;
    next_backing_id = id;
    has_next = 1;
    Py_RETURN_NONE;
}

static PyObject *answer_next_entry(PyObject *self, PyObject *page)
{
    (void)self;
    if (!PyBytes_Check(page)) {
        PyErr_SetString(PyExc_TypeError, "a page of a folder is bytes");
        return NULL;
    }
    Py_INCREF(page);
    Py_XSETREF(next_page, page);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    { "serve", serve, METH_VARARGS,
      "serve(device, incarnation_bits, answer=None): from now on answer(opcode, node, body) is asked first. It returns "
      "the reply's bytes, an errno, or None to leave the request to pyfuse3. incarnation_bits: low bits of a node id "
      "that are not part of the inode number" },
    { "answer_next_open", answer_next_open, METH_VARARGS,
      "answer_next_open(fh, flags, backing_id=0): the open reply with this fh has these FOPEN flags" },
    { "answer_next_entry", answer_next_entry, METH_O,
      "answer_next_entry(page): the next entry of a folder is replaced by these packed ones" },
    { NULL, NULL, 0, NULL },
};

static struct PyModuleDef module = { PyModuleDef_HEAD_INIT, .m_name = "fusemount._shim", .m_size = -1, .m_methods = methods };

PyMODINIT_FUNC PyInit__shim(void)
{
    /* The kernel hands a request out only to a buffer that the largest write would fit in. */
    unsigned pages = DEFAULT_MAX_PAGES;
    FILE *limit = fopen("/proc/sys/fs/fuse/max_pages_limit", "r");
    if (limit) {
        if (fscanf(limit, "%u", &pages) != 1 || pages < DEFAULT_MAX_PAGES)
            pages = DEFAULT_MAX_PAGES;
        fclose(limit);
    }
    request_bytes = ((size_t)pages + 1) * PAGE;
    return PyModule_Create(&module);
}
