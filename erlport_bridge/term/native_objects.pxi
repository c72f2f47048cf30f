# Python's C API in terms of pointers, the tags, and functions on bytes: part of native.pyx.

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        pass
    ctypedef struct PyObject:
        pass

    PyTypeObject PyUnicode_Type, PyLong_Type, PyFloat_Type, PyBytes_Type
    PyTypeObject PyList_Type, PyTuple_Type, PyDict_Type
    PyObject* Py_None
    PyObject* Py_True
    PyObject* Py_False

    void Py_INCREF(PyObject*)
    void Py_DECREF(PyObject*)
    void Py_XDECREF(PyObject*)
    PyTypeObject* Py_TYPE(PyObject*)

    void PyErr_Clear()
    bint PyGC_Disable()
    bint PyGC_Enable()
    void* PyMem_Malloc(size_t)
    void* PyMem_Realloc(void*, size_t)
    void PyMem_Free(void*)

    PyObject* PyLong_FromLong(long)
    PyObject* PyLong_FromLongLong(long long)
    long long PyLong_AsLongLongAndOverflow(PyObject*, int*)
    PyObject* PyFloat_FromDouble(double)
    double PyFloat_AS_DOUBLE(PyObject*)

    PyObject* PyUnicode_New(Py_ssize_t, uint32_t)
    PyObject* PyUnicode_FromOrdinal(int)
    bint PyUnicode_IS_ASCII(PyObject*)
    int PyUnicode_KIND(PyObject*)
    void* PyUnicode_DATA(PyObject*)
    uint32_t PyUnicode_READ(int, void*, Py_ssize_t)
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject*)

    Py_buffer* PyMemoryView_GET_BUFFER(object)
    int PyBuffer_FillInfo(Py_buffer*, object, void*, Py_ssize_t, bint, int) except -1
    PyObject* PyBytes_FromStringAndSize(const char*, Py_ssize_t)
    char* PyBytes_AS_STRING(PyObject*)
    Py_ssize_t PyBytes_GET_SIZE(PyObject*)
    int _PyBytes_Resize(PyObject**, Py_ssize_t)

    PyObject* PyList_New(Py_ssize_t)
    PyObject* PyList_GET_ITEM(PyObject*, Py_ssize_t)
    void PyList_SET_ITEM(PyObject*, Py_ssize_t, PyObject*)
    Py_ssize_t PyList_GET_SIZE(PyObject*)
    PyObject* PyTuple_New(Py_ssize_t)
    PyObject* PyTuple_GET_ITEM(PyObject*, Py_ssize_t)
    void PyTuple_SET_ITEM(PyObject*, Py_ssize_t, PyObject*)
    Py_ssize_t PyTuple_GET_SIZE(PyObject*)
    PyObject* PyDict_New()
    PyObject* PyDict_Copy(PyObject*)
    int PyDict_SetItem(PyObject*, PyObject*, PyObject*)
    int PyDict_Next(PyObject*, Py_ssize_t*, PyObject**, PyObject**)
    Py_ssize_t PyDict_GET_SIZE(PyObject*)

cdef extern from *:
    """
    #if defined(__linux__)
    #include <sys/mman.h>
    #include <unistd.h>
    #endif

    /* Asks the system for pages of 2 MiB for memory that is about to be written. It would otherwise clear and map 512
       pages of 4 KiB, one by one, for each. Only advice: without effect where the system has no large pages. */
    static void use_large_pages(void *start, size_t size) {
    #if defined(__linux__) && defined(MADV_HUGEPAGE)
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        size_t from = ((size_t)start + page - 1) & ~(page - 1);
        size_t to = ((size_t)start + size) & ~(page - 1);
        if (to > from)
            (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
    #else
        (void)start;
        (void)size;
    #endif
    }
    """
    void use_large_pages(void*, size_t) noexcept nogil

# The names and numbers of tags.py, as constants, so that the C compiler makes a jump table of them.
cdef enum:
    VERSION = 131
    COMPRESSED = 80
    NEW_FLOAT = 70
    SMALL_INTEGER = 97
    INTEGER = 98
    ATOM = 100
    SMALL_TUPLE = 104
    LARGE_TUPLE = 105
    NIL = 106
    STRING = 107
    LIST = 108
    BINARY = 109
    SMALL_BIG = 110
    LARGE_BIG = 111
    SMALL_ATOM = 115
    MAP = 116
    ATOM_UTF8 = 118
    SMALL_ATOM_UTF8 = 119

cdef enum:
    # After so many bytes another thread may take the GIL: about 1 to 5 ms, as in Python's own interpreter.
    BYTES_PER_TURN = 1_048_576
    # From this size on, half a large page more or less does not matter.
    LARGE_MEMORY = 4_194_304

cdef PyTypeObject* _Atom = <PyTypeObject*>Atom


cdef void let_others_run() noexcept:
    """Release the GIL and take it back; this takes long only if another thread waits for the GIL."""
    with nogil:
        pass


cdef inline PyObject* new_bytes(Py_ssize_t size) noexcept:
    """Return a bytes object to be written to."""
    cdef PyObject* data = PyBytes_FromStringAndSize(NULL, size)
    if size >= LARGE_MEMORY and data != NULL:
        use_large_pages(PyBytes_AS_STRING(data), size)
    return data


cdef inline uint32_t load_u16(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 8) | p[1]


cdef inline uint32_t load_u32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline double load_double(const uint8_t* p) noexcept nogil:
    cdef uint64_t bits = (<uint64_t>load_u32(p) << 32) | load_u32(p + 4)
    cdef double number
    memcpy(&number, &bits, 8)
    return number


cdef inline void store_u16(uint8_t* p, uint32_t number) noexcept nogil:
    p[0] = <uint8_t>(number >> 8)
    p[1] = <uint8_t>number


cdef inline void store_u32(uint8_t* p, uint32_t number) noexcept nogil:
    p[0] = <uint8_t>(number >> 24)
    p[1] = <uint8_t>(number >> 16)
    p[2] = <uint8_t>(number >> 8)
    p[3] = <uint8_t>number


cdef inline void store_double(uint8_t* p, double number) noexcept nogil:
    cdef uint64_t bits
    memcpy(&bits, &number, 8)
    store_u32(p, <uint32_t>(bits >> 32))
    store_u32(p + 4, <uint32_t>bits)


cdef inline void copy(uint8_t* to, const uint8_t* source, Py_ssize_t size) noexcept nogil:
    """Copy bytes. Most texts and names are short, and a call of memcpy takes longer than their copy.

    Short bytes are copied as two pieces of a fixed size, which overlap in the middle; C copies them inline.
    """
    if size > 32:
        memcpy(to, source, size)
    elif size >= 16:
        memcpy(to, source, 16)
        memcpy(to + size - 16, source + size - 16, 16)
    elif size >= 8:
        memcpy(to, source, 8)
        memcpy(to + size - 8, source + size - 8, 8)
    elif size >= 4:
        memcpy(to, source, 4)
        memcpy(to + size - 4, source + size - 4, 4)
    elif size:
        to[0] = source[0]
        to[size >> 1] = source[size >> 1]
        to[size - 1] = source[size - 1]


cdef inline void copy_in_turn(uint8_t* to, const uint8_t* source, Py_ssize_t size) noexcept:
    """Copy to memory that no other thread reads yet; release the GIL meanwhile if the copy is long."""
    if size < BYTES_PER_TURN:
        copy(to, source, size)
    else:
        with nogil:
            memcpy(to, source, size)


cdef void* enlarged(void* items, void* first, size_t size) noexcept:
    """Return twice as much memory with the same content. ``first`` is part of its owner, and is not freed."""
    cdef void* larger
    if items != first:
        return PyMem_Realloc(items, 2 * size)
    larger = PyMem_Malloc(2 * size)
    if larger != NULL:
        memcpy(larger, items, size)
    return larger
