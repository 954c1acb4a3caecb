/* The part of FUSE that pyfuse3 cannot express, as replacements for a few functions of libfuse that it calls.
 *
 * Loaded with RTLD_GLOBAL before pyfuse3, so that pyfuse3's calls bind here first (fusemount/shim.py does that). It
 * works with every libfuse 3: replies that libfuse does not know are sent as raw bytes through fuse_reply_iov.
 *
 * - fuse_reply_open: adds a passthrough backing id, and NOFLUSH, to the open reply.
 * - fuse_session_receive_buf: several processes share one mount, so their devices are non-blocking, and one of them may
 *   lose the race for a request; pyfuse3 ends the mount on EAGAIN but goes on after EINTR.
 * - fuse_reply_entry, fuse_reply_attr, fuse_add_direntry_plus: st_ino is the catalog's row, not the node id, so a file
 *   keeps its inode number when its I/O mode changes.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define _GNU_SOURCE
#define FUSE_USE_VERSION 34
#include <dlfcn.h>
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdint.h>
#include <sys/uio.h>

enum { OPEN_DIRECT_IO = 1 << 0, OPEN_KEEP_CACHE = 1 << 1, OPEN_NOFLUSH = 1 << 5, OPEN_PASSTHROUGH = 1 << 7 };

/* struct fuse_open_out of linux/fuse.h */
struct open_reply {
    uint64_t fh;
    uint32_t flags;
    int32_t backing_id;
};

static uint64_t backing_fh;
static int backing_id;
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

static uint64_t inode_number(uint64_t node)
{
    return node >> incarnation_bits ? node >> incarnation_bits : node;
}

int fuse_reply_open(fuse_req_t req, const struct fuse_file_info *fi)
{
    struct open_reply reply = { .fh = fi->fh, .flags = OPEN_NOFLUSH };
    if (backing_id && backing_fh == fi->fh) {
        reply.flags |= OPEN_PASSTHROUGH;
        reply.backing_id = backing_id;
    } else {
        reply.flags |= (fi->direct_io ? OPEN_DIRECT_IO : 0) | (fi->keep_cache ? OPEN_KEEP_CACHE : 0);
    }
    backing_id = 0;
    return fuse_reply_iov(req, &(struct iovec){ &reply, sizeof reply }, 1);
}

int fuse_session_receive_buf(struct fuse_session *session, struct fuse_buf *buf)
{
    static int (*next)(struct fuse_session *, struct fuse_buf *);
    if (!next)
        next = original("fuse_session_receive_buf");
    int got = next(session, buf);
    return got == -EAGAIN ? -EINTR : got;
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
    if (!next)
        next = original("fuse_add_direntry_plus");
    struct fuse_entry_param shown = *entry;
    shown.attr.st_ino = inode_number(entry->ino);
    return next(req, buf, size, name, &shown, offset);
}

static PyObject *answer_next_open(PyObject *self, PyObject *args)
{
    unsigned long long fh;
    int id;
    (void)self;
    if (!PyArg_ParseTuple(args, "Ki", &fh, &id))
        return NULL;
    backing_fh = fh;
    backing_id = id;
    Py_RETURN_NONE;
}

static PyObject *set_incarnation_bits(PyObject *self, PyObject *args)
{
    (void)self;
    if (!PyArg_ParseTuple(args, "I", &incarnation_bits))
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    { "answer_next_open", answer_next_open, METH_VARARGS,
      "answer_next_open(fh, backing_id): the open reply with this fh opens by passthrough" },
    { "set_incarnation_bits", set_incarnation_bits, METH_VARARGS,
      "set_incarnation_bits(bits): low bits of a node id that are not part of the inode number" },
    { NULL, NULL, 0, NULL },
};

static struct PyModuleDef module = { PyModuleDef_HEAD_INIT, .m_name = "fusemount._shim", .m_size = -1, .m_methods = methods };

PyMODINIT_FUNC PyInit__shim(void)
{
    return PyModule_Create(&module);
}
