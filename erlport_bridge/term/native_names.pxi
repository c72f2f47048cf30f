# A cache of frequent atoms and map keys: part of native.pyx.

cdef enum:
    # Longest name that is cached, in bytes. Names of fields and options are shorter.
    MAX_REMEMBERED_SIZE = 46
    REMEMBERED_BITS = 10


# A cached name and its term. The cache has one place for each hash; a later name replaces an earlier one.
cdef struct Remembered:
    PyObject* term  # owned; NULL while the place is free
    uint8_t size
    uint8_t is_ascii
    uint8_t name[MAX_REMEMBERED_SIZE]

cdef Remembered _atoms[1 << REMEMBERED_BITS]
cdef Remembered _keys[1 << REMEMBERED_BITS]


cdef inline Remembered* _place(Remembered* table, const uint8_t* name, Py_ssize_t size) noexcept:
    cdef uint64_t first = 0, last = 0
    if size >= 8:
        memcpy(&first, name, 8)
        memcpy(&last, name + size - 8, 8)
    elif size >= 4:
        memcpy(&first, name, 4)
        memcpy(&last, name + size - 4, 4)
    elif size:
        first = name[0] | (<uint64_t>name[size >> 1] << 8) | (<uint64_t>name[size - 1] << 16)
    # Odd numbers with well mixed bits, from xxHash.
    first = (first ^ <uint64_t>size) * <uint64_t>0x9E3779B185EBCA87 + last * <uint64_t>0xC2B2AE3D27D4EB4F
    first ^= first >> 29
    first *= <uint64_t>0x165667B19E3779F9
    return table + (first >> (64 - REMEMBERED_BITS))


cdef inline void _remember(Remembered* place, const uint8_t* name, Py_ssize_t size, PyObject* term) noexcept:
    Py_XDECREF(place.term)
    Py_INCREF(term)
    place.term = term
    place.size = <uint8_t>size
    place.is_ascii = is_ascii(name, size)
    memcpy(place.name, name, size)


cdef PyObject* key_named(const uint8_t* name, Py_ssize_t size) noexcept:
    """Return a binary that is the key of a map. Most keys recur, and the cached object has its hash already."""
    cdef Remembered* place
    cdef PyObject* term
    if size > MAX_REMEMBERED_SIZE:
        return new_text(name, size)
    place = _place(_keys, name, size)
    term = place.term
    if term != NULL and place.size == size and memcmp(place.name, name, size) == 0:
        Py_INCREF(term)
        return term
    term = new_text(name, size)
    if term != NULL and Py_TYPE(term) == &PyUnicode_Type:
        _remember(place, name, size, term)
    return term


cdef PyObject* atom_named(const uint8_t* name, Py_ssize_t size, bint is_latin1) except? NULL:
    cdef Remembered* place = NULL
    cdef PyObject* term
    if size <= MAX_REMEMBERED_SIZE:
        place = _place(_atoms, name, size)
        term = place.term
        if (
            term != NULL
            and place.size == size
            and memcmp(place.name, name, size) == 0
            and (place.is_ascii or not is_latin1)
        ):
            Py_INCREF(term)
            return term
    raw = <bytes>name[:size]
    if is_latin1 and not is_ascii(name, size):
        return _shared(ATOMS[raw.decode("latin-1").encode()])
    term = _shared(ATOMS[raw])
    if place != NULL:
        _remember(place, name, size, term)
    return term
