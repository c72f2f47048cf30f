# The decoder, from bytes to Python values: part of native.pyx.

cdef enum:
    IMPROPER = 256  # the tag of a list of which only the improper tail is missing; larger than every real tag

    FRAMES_AT_START = 32


# A container that is being filled.
cdef struct Container:
    PyObject* container  # owned
    PyObject* waiting  # owned: the key of a map whose value is being read, or the tail of an improper list
    Py_ssize_t filled
    Py_ssize_t size  # elements or entries
    int tag
    bint is_struct


cdef struct Reading:
    const uint8_t* data
    Py_ssize_t size
    Py_ssize_t position
    Container* around  # the containers around the position, the outermost first
    Py_ssize_t depth
    Py_ssize_t room  # in `around`
    Container first[FRAMES_AT_START]


def decode(data, *, Py_ssize_t max_depth=MAX_DEPTH, max_bytes=MAX_BYTES):
    """Decode one Erlang external term; see the reference."""
    cdef PyObject* term
    cdef Py_buffer* buffer
    if type(data) is bytes:
        term = _decoded(data, <const uint8_t*>PyBytes_AS_STRING(<PyObject*>data), PyBytes_GET_SIZE(<PyObject*>data),
                        max_depth, max_bytes)
        return reference.decode(data, max_depth=max_depth, max_bytes=max_bytes) if term == NULL else _owned(term)
    view = memoryview(data)
    if type(data) is mmap:
        # A frame of the port, which nobody changes, is read in place. A term that needs a bytes object is read again
        # below. Any other buffer might be changed by other threads after it was checked to be UTF-8.
        buffer = PyMemoryView_GET_BUFFER(view)
        term = _decoded(view, <const uint8_t*>buffer.buf, buffer.len, max_depth, max_bytes)
        if term != NULL:
            return _owned(term)
    return decode(bytes(view), max_depth=max_depth, max_bytes=max_bytes)


cdef PyObject* _decoded(source, const uint8_t* data, Py_ssize_t size, Py_ssize_t max_depth, max_bytes) except? NULL:
    """Return the term of these bytes, or ``NULL`` to fall back to the reference."""
    cdef Reading reading
    cdef bint collects
    if size < 2 or data[0] != VERSION:
        return NULL
    reading.position = 1
    if data[1] == COMPRESSED:
        if type(source) is not bytes:
            return NULL
        source = inflated(source, max_bytes)
        data = <const uint8_t*>PyBytes_AS_STRING(<PyObject*>source)
        size = PyBytes_GET_SIZE(<PyObject*>source)
        reading.position = 0
    reading.data = data
    reading.size = size
    reading.around = reading.first
    reading.room = FRAMES_AT_START
    reading.depth = 0
    # Thousands of new containers would trigger the garbage collector again and again, with nothing to free.
    collects = PyGC_Disable()
    try:
        return _read(&reading, source, max_depth)
    except MemoryError:  # the reference would need more memory, and run out of it after a longer time
        raise
    except Exception:  # the reference raises it, worded
        return NULL
    finally:
        if collects:
            PyGC_Enable()
        _drop(&reading)


cdef object _owned(PyObject* term):
    """Return an object for Cython to manage, in exchange for a reference that this code owns."""
    value = <object>term
    Py_DECREF(term)
    return value


cdef PyObject* _shared(value) noexcept:
    """Return a new reference to an object that Cython manages."""
    Py_INCREF(<PyObject*>value)
    return <PyObject*>value


cdef void _drop(Reading* reading) noexcept:
    """Release the containers that have not been completed."""
    while reading.depth:
        reading.depth -= 1
        Py_XDECREF(reading.around[reading.depth].container)
        Py_XDECREF(reading.around[reading.depth].waiting)
    if reading.around != reading.first:
        PyMem_Free(reading.around)


cdef PyObject* _read(Reading* reading, source, Py_ssize_t max_depth) except? NULL:
    """Read the one term from the position to the end of the data."""
    cdef const uint8_t* data = reading.data
    cdef Py_ssize_t size = reading.size, i = reading.position
    # Terms still missing. Each takes a byte at least, so a container that claims more elements than there are bytes is
    # refused before memory is allocated: also where each of many containers claims all the bytes that are left.
    cdef Py_ssize_t missing = 1
    cdef Py_ssize_t count, turn_ends = i + BYTES_PER_TURN
    cdef int tag
    cdef Container* top
    cdef PyObject* term
    while True:
        if i >= size:
            return NULL
        if i > turn_ends:
            let_others_run()
            turn_ends = i + BYTES_PER_TURN
        tag = data[i]
        missing -= 1
        if tag == MAP or tag == LIST or tag == SMALL_TUPLE or tag == LARGE_TUPLE:
            if size - i < (2 if tag == SMALL_TUPLE else 5):
                return NULL
            count = data[i + 1] if tag == SMALL_TUPLE else load_u32(data + i + 1)
            i += 2 if tag == SMALL_TUPLE else 5
            missing += 2 * count if tag == MAP else count + 1 if tag == LIST else count
            if missing > size - i:
                return NULL
            if count:
                if not _begin(reading, tag, count, max_depth):
                    return NULL
                continue
            if tag == LIST:
                return NULL
            term = PyDict_New() if tag == MAP else PyTuple_New(0)
        else:
            term = _leaf(reading, tag, &i, source)
        # Put the term into its container, and a container that it completes into the one around it.
        while True:
            if term == NULL:
                return NULL
            if not reading.depth:
                if i == size:
                    return term
                Py_DECREF(term)
                return NULL
            top = reading.around + reading.depth - 1
            if not _put_in(top, term):
                return NULL
            if top.filled < top.size:
                break
            if top.tag == LIST:
                if i >= size or data[i] == LIST or data[i] == STRING:
                    return NULL
                if data[i] != NIL:
                    top.tag = IMPROPER
                    top.size += 1
                    break
                i += 1
                missing -= 1
            term = _completed(top)
            if term != NULL:
                reading.depth -= 1


cdef inline PyObject* _leaf(Reading* reading, int tag, Py_ssize_t* position, source) except? NULL:
    """Read a term that is no container."""
    cdef const uint8_t* data = reading.data + position[0]
    cdef Py_ssize_t left = reading.size - position[0], length
    cdef double number
    if tag == BINARY:
        if left < 5 or load_u32(data + 1) > left - 5:
            return NULL
        length = load_u32(data + 1)
        position[0] += 5 + length
        return key_named(data + 5, length) if _is_at_key(reading) else new_text(data + 5, length)
    elif tag == SMALL_ATOM_UTF8 or tag == SMALL_ATOM:
        if left < 2 or data[1] > left - 2:
            return NULL
        length = data[1]
        position[0] += 2 + length
        return atom_named(data + 2, length, tag == SMALL_ATOM)
    elif tag == SMALL_INTEGER:
        if left < 2:
            return NULL
        position[0] += 2
        return PyLong_FromLong(data[1])
    elif tag == INTEGER:
        if left < 5:
            return NULL
        position[0] += 5
        return PyLong_FromLong(<int>load_u32(data + 1))
    elif tag == NEW_FLOAT:
        if left < 9:
            return NULL
        number = load_double(data + 1)
        if number - number != 0:  # NaN or infinite
            return NULL
        position[0] += 9
        return PyFloat_FromDouble(number)
    elif tag == NIL:
        position[0] += 1
        return PyList_New(0)
    elif tag == STRING:
        if left < 3 or load_u16(data + 1) > left - 3:
            return NULL
        length = load_u16(data + 1)
        position[0] += 3 + length
        return _small_integers(data + 3, length)
    elif tag == ATOM_UTF8 or tag == ATOM:
        if left < 3 or load_u16(data + 1) > left - 3:
            return NULL
        length = load_u16(data + 1)
        position[0] += 3 + length
        return atom_named(data + 3, length, tag == ATOM)
    elif tag == SMALL_BIG and left >= 3 and data[1] < 8 and data[1] <= left - 3 and data[2] < 2:
        position[0] += 3 + data[1]
        return _integer(data + 3, data[1], data[2])
    return _rare(tag, source, position)


cdef inline bint _begin(Reading* reading, int tag, Py_ssize_t size, Py_ssize_t max_depth) noexcept:
    """Begin to fill a container."""
    cdef Container* top
    cdef PyObject* container
    if reading.depth >= max_depth or (reading.depth == reading.room and not _make_room(reading)):
        return False
    if tag == MAP:
        # Not presized: the presizing function makes a table for keys of any type, which is larger and no faster.
        container = PyDict_New()
    else:
        container = PyList_New(size) if tag == LIST else PyTuple_New(size)
    if container == NULL:
        return False
    top = reading.around + reading.depth
    reading.depth += 1
    top.container = container
    top.waiting = NULL
    top.filled = 0
    top.size = size
    top.tag = tag
    top.is_struct = False
    return True


cdef bint _make_room(Reading* reading) noexcept:
    cdef void* around = enlarged(reading.around, reading.first, reading.room * sizeof(Container))
    if around == NULL:
        return False
    reading.around = <Container*>around
    reading.room *= 2
    return True


cdef inline bint _is_at_key(Reading* reading) noexcept:
    """Return whether the next term is the key of a map."""
    cdef Container* top
    if not reading.depth:
        return False
    top = reading.around + reading.depth - 1
    return top.tag == MAP and top.waiting == NULL


cdef inline bint _put_in(Container* top, PyObject* term) except -1:
    """Put a term into a container, which takes over the reference."""
    cdef int status
    if top.tag == MAP:
        if top.waiting == NULL:
            top.waiting = _hashable(term)
            top.is_struct = top.is_struct or top.waiting == <PyObject*>STRUCT
            return True
        status = PyDict_SetItem(top.container, top.waiting, term)
        Py_DECREF(term)
        Py_DECREF(top.waiting)
        top.waiting = NULL
        if status < 0:
            PyErr_Clear()  # erlang-py's classes cannot be compared with other classes
            return False
    elif top.tag == LIST:
        PyList_SET_ITEM(top.container, top.filled, term)
    elif top.tag == IMPROPER:
        top.waiting = term
    else:
        PyTuple_SET_ITEM(top.container, top.filled, term)
    top.filled += 1
    return True


cdef inline PyObject* _completed(Container* top) except? NULL:
    """Return the term of a full container, in exchange for the references in it."""
    if top.tag == MAP:
        if PyDict_GET_SIZE(top.container) != top.size:
            return NULL
        if not top.is_struct:
            return top.container
        value = from_struct(<object>top.container)
    elif top.tag == IMPROPER:
        value = ImproperList(<object>top.container, <object>top.waiting)
        Py_DECREF(top.waiting)
    elif top.tag != LIST and top.size == 3 and PyTuple_GET_ITEM(top.container, 0) == <PyObject*>OPAQUE:
        value = opaque_term(<object>top.container)
    else:
        return top.container
    Py_DECREF(top.container)
    return _shared(value)


cdef inline PyObject* _hashable(PyObject* key) except? NULL:
    """Return a term as a hashable map key, in exchange for a reference to it."""
    cdef PyTypeObject* kind = Py_TYPE(key)
    if kind == &PyUnicode_Type or kind == _Atom or kind == &PyLong_Type:
        return key
    return _shared(freeze(_owned(key)))


cdef PyObject* _small_integers(const uint8_t* data, Py_ssize_t size) noexcept:
    cdef PyObject* items = PyList_New(size)
    cdef Py_ssize_t i
    if items != NULL:
        for i in range(size):
            PyList_SET_ITEM(items, i, PyLong_FromLong(data[i]))
    return items


cdef PyObject* _integer(const uint8_t* data, Py_ssize_t size, bint is_negative) noexcept:
    """Return an integer of at most 7 bytes, in little-endian order."""
    cdef uint64_t number = 0
    cdef Py_ssize_t i
    for i in range(size):
        number |= <uint64_t>data[i] << (8 * i)
    return PyLong_FromLongLong(-<long long>number if is_negative else <long long>number)


cdef PyObject* _rare(int tag, source, Py_ssize_t* position) except? NULL:
    """Read a rare term with the reference's reader, which takes bytes only."""
    reader = READERS.get(tag) if type(source) is bytes else None
    if reader is None:
        return NULL
    term, end = reader(source, position[0] + 1)
    position[0] = end
    return _shared(term)
