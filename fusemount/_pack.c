/* Names of a folder as the kernel takes them in the answer to READDIRPLUS: what fusemount/packed.py does, ten times as
 * fast. Folders have up to millions of names, and nothing else is done so often at once.
 *
 * Format: struct fuse_direntplus of linux/fuse.h.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <linux/fuse.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

enum {
    BLOCK = 4096,
    LONGEST_NAME = 255,
    LARGEST_ENTRY = 512, /* a name of 255 bytes takes 408 */
    NS = 1000000000,
};
struct ttl { uint64_t seconds; uint32_t nanoseconds; };
struct look { unsigned incarnation_bits, uid, gid, file_mode, folder_mode; struct ttl settled, incomplete, unlisted; };

static struct ttl split(double ttl_s)
{
    struct ttl ttl = { .seconds = (uint64_t)ttl_s };
    ttl.nanoseconds = (uint32_t)((ttl_s - (double)ttl.seconds) * NS);
    return ttl;
}

/* One name as struct fuse_direntplus. row: see `Name` in fusemount/packed.py. Bytes written, 0 with an exception. */
static size_t pack_name(char *out, PyObject *row, const struct look *look)
{
    long long id, is_dir, size, mtime_ns, incarnation, links, is_link, is_executable;
    const char *name;
    Py_ssize_t length;
    if (!PyTuple_Check(row)) {
        PyErr_SetString(PyExc_TypeError, "a row is a tuple");
        return 0;
    }
    if (!PyArg_ParseTuple(row, "Ly#LLLLLLL", &id, &name, &length, &is_dir, &size, &mtime_ns, &incarnation, &links,
                          &is_link, &is_executable))
        return 0;
    if (length > LONGEST_NAME) {
        PyErr_SetString(PyExc_ValueError, "a name has 255 bytes at most");
        return 0;
    }
    uint64_t low = is_dir ? 0 : (uint64_t)incarnation & ((1u << look->incarnation_bits) - 1);
    const struct ttl *ttl = incarnation & 1 ? &look->settled : &look->incomplete;
    if (is_dir)
        ttl = links > 1 ? &look->settled : &look->unlisted;
    uint32_t mode = S_IFREG | look->file_mode;
    if (is_dir)
        mode = S_IFDIR | look->folder_mode;
    else if (is_link)
        mode = S_IFLNK | 0777;
    else if (is_executable)
        mode |= (look->file_mode & 0444) >> 2;
    long long seconds = mtime_ns / NS - (mtime_ns % NS < 0), rest = mtime_ns - seconds * NS;
    struct fuse_direntplus *entry = memset(out, 0, FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + (size_t)length));
    entry->entry_out = (struct fuse_entry_out){
        .nodeid = (uint64_t)id << look->incarnation_bits | low, .entry_valid = ttl->seconds, .attr_valid = ttl->seconds,
        .entry_valid_nsec = ttl->nanoseconds, .attr_valid_nsec = ttl->nanoseconds,
        .attr = { .ino = (uint64_t)id, .size = (uint64_t)size, .blocks = ((uint64_t)size + 511) / 512,
                  .atime = (uint64_t)seconds, .mtime = (uint64_t)seconds, .ctime = (uint64_t)seconds,
                  .atimensec = (uint32_t)rest, .mtimensec = (uint32_t)rest, .ctimensec = (uint32_t)rest,
                  .mode = mode, .nlink = (uint32_t)links, .uid = look->uid, .gid = look->gid, .blksize = BLOCK },
    };
    entry->dirent.ino = (uint64_t)id;
    entry->dirent.off = (uint64_t)id;
    entry->dirent.namelen = (uint32_t)length;
    entry->dirent.type = mode >> 12;
    memcpy(entry->dirent.name, name, (size_t)length);
    return FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + (size_t)length);
}

static PyObject *pack_names(PyObject *self, PyObject *args)
{
    PyObject *rows, *ends = NULL, *packed = NULL;
    struct look look;
    double settled_s, incomplete_s, unlisted_s;
    size_t used = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!IIIIIddd", &PyList_Type, &rows, &look.incarnation_bits, &look.uid, &look.gid,
                          &look.file_mode, &look.folder_mode, &settled_s, &incomplete_s, &unlisted_s))
        return NULL;
    look.settled = split(settled_s);
    look.incomplete = split(incomplete_s);
    look.unlisted = split(unlisted_s);
    Py_ssize_t count = PyList_GET_SIZE(rows);
    char *buffer = PyMem_Malloc((size_t)(count + 1) * LARGEST_ENTRY);
    if (!buffer)
        return PyErr_NoMemory();
    ends = PyList_New(count);
    for (Py_ssize_t i = 0; ends && i < count; i++) {
        size_t length = pack_name(buffer + used, PyList_GET_ITEM(rows, i), &look);
        PyObject *end = length ? PyLong_FromSize_t(used += length) : NULL;
        if (end)
            PyList_SET_ITEM(ends, i, end);
        else
            Py_CLEAR(ends);
    }
    if (ends)
        packed = PyBytes_FromStringAndSize(buffer, (Py_ssize_t)used);
    PyMem_Free(buffer);
    PyObject *result = packed ? PyTuple_Pack(2, packed, ends) : NULL;
    Py_XDECREF(packed);
    Py_XDECREF(ends);
    return result;
}

static PyMethodDef methods[] = {
    { "pack_names", pack_names, METH_VARARGS,
      "pack_names(rows, incarnation_bits, uid, gid, file_mode, folder_mode, settled_ttl_s, incomplete_ttl_s, "
      "unlisted_ttl_s): the packed names, and where each of them ends" },
    { NULL, NULL, 0, NULL },
};

static struct PyModuleDef module = { PyModuleDef_HEAD_INIT, .m_name = "fusemount._pack", .m_size = -1, .m_methods = methods };

PyMODINIT_FUNC PyInit__pack(void)
{
    return PyModule_Create(&module);
}
