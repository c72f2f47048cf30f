# The encoder, from Python values to bytes: part of native.pyx.

cdef enum:
    # Terms up to this size are written into memory that is reused, and copied out once. A longer term goes on in the
    # bytes object that will be returned, which the system moves without a copy when it grows.
    SCRATCH_SIZE = 65_536

    KEYS_AT_START = 128

    # A text or binary of at least this size is not copied into a frame, but written from its own memory.
    LENT_SIZE = 65_536

cdef uint8_t _scratch[SCRATCH_SIZE]
cdef bint _scratch_is_free = True


# A container that is being written.
cdef struct Opened:
    PyObject* container  # owned
    PyObject* value  # owned: the value of a map's key that is not written at once
    bint is_at_value
    Py_ssize_t position  # of the next element; for a map as PyDict_Next counts
    Py_ssize_t written  # entries of a map, with the one being written
    Py_ssize_t size  # elements or entries
    Py_ssize_t first_key  # index of its first key in `keys`
    bint is_mixed  # a map whose different keys may be the same term
    int tag


cdef struct Writing:
    Output output
    Opened* around  # the containers around what is written, the outermost first
    Py_ssize_t depth
    Py_ssize_t room  # in `around`
    Py_ssize_t detached  # how many containers, from the outermost, no other thread can change
    Py_ssize_t* keys  # where in the output the keys of the open maps begin and end, in turn
    Py_ssize_t keys_used
    Py_ssize_t keys_room
    PyObject* lent  # a list of (place in the output, memory that is sent there); borrowed; NULL to copy all
    Py_ssize_t lent_size
    Opened first[FRAMES_AT_START]
    Py_ssize_t first_keys[KEYS_AT_START]


def encode(term, *, int compressed=0, Py_ssize_t max_depth=MAX_DEPTH, int packet=0):
    """Encode one term; see the reference."""
    if compressed:
        data = deflated(encode(term, max_depth=max_depth), compressed)
        return frame_length(len(data), packet) + data if packet else data
    encoded = _encoded(term, max_depth, packet, None)
    return reference.encode(term, max_depth=max_depth, packet=packet) if encoded is None else encoded


def encode_frame(term, *, int packet, int compressed=0, Py_ssize_t max_depth=MAX_DEPTH):
    """Encode one term as a frame, in parts; see the reference. Large parts are the term's own memory."""
    cdef Py_ssize_t start = 0, end
    if compressed:
        return [encode(term, compressed=compressed, max_depth=max_depth, packet=packet)]
    lent = []
    encoded = _encoded(term, max_depth, packet, lent)
    if encoded is None:
        return reference.encode_frame(term, packet=packet, max_depth=max_depth)
    if not lent:
        return [encoded]
    parts = []
    view = memoryview(encoded)
    for end, data in lent:
        parts += [view[start:end], data]
        start = end
    if start < len(view):
        parts.append(view[start:])
    return parts


cdef object _encoded(term, Py_ssize_t max_depth, int packet, list lent):
    """Return the bytes of a term without the parts in ``lent``, or ``None`` to fall back to the reference."""
    global _scratch_is_free
    cdef Writing writing
    cdef uint8_t* cursor
    cdef bint has_scratch = _scratch_is_free  # not free while another thread, or a caller up the stack, encodes
    if packet != 0 and packet != 1 and packet != 2 and packet != 4:
        return None
    writing.around = writing.first
    writing.room = FRAMES_AT_START
    writing.depth = writing.detached = 0
    writing.keys = writing.first_keys
    writing.keys_used = 0
    writing.keys_room = KEYS_AT_START
    writing.lent = <PyObject*>lent if lent is not None else NULL
    writing.lent_size = 0
    writing.output.owner = NULL
    writing.output.start = _scratch if has_scratch else NULL
    writing.output.end = _scratch + SCRATCH_SIZE if has_scratch else NULL
    try:
        _scratch_is_free = False
        cursor = with_room(&writing.output, writing.output.start, packet + 1)
        if cursor != NULL:
            cursor[packet] = VERSION
            cursor = _write(&writing, cursor + packet + 1, term, max_depth)
        if cursor != NULL and put_length(&writing.output, cursor, packet, writing.lent_size):
            return _taken(&writing.output, cursor)
    except Exception:  # the reference raises it again
        pass
    finally:
        if has_scratch:
            _scratch_is_free = True
        _let_go(&writing)
    PyErr_Clear()
    return None


cdef object _taken(Output* output, uint8_t* cursor):
    """Return the output as a bytes object."""
    cdef PyObject* owner = output.owner
    if owner == NULL:
        owner = PyBytes_FromStringAndSize(<char*>output.start, cursor - output.start)
    else:
        output.owner = NULL
        _PyBytes_Resize(&owner, cursor - output.start)  # sets owner to NULL on failure
    if owner == NULL:
        raise MemoryError
    return _owned(owner)


cdef void _let_go(Writing* writing) noexcept:
    while writing.depth:
        writing.depth -= 1
        Py_DECREF(writing.around[writing.depth].container)
        Py_XDECREF(writing.around[writing.depth].value)
    if writing.around != writing.first:
        PyMem_Free(writing.around)
    if writing.keys != writing.first_keys:
        PyMem_Free(writing.keys)
    Py_XDECREF(writing.output.owner)


cdef uint8_t* _write(Writing* writing, uint8_t* cursor, root, Py_ssize_t max_depth) except? NULL:
    """Write a term at the cursor, and return the new cursor; ``NULL`` to fall back to the reference."""
    cdef Output* output = &writing.output
    cdef PyObject* item = <PyObject*>root
    cdef PyTypeObject* kind
    cdef Opened* top
    cdef Py_ssize_t size, turn_ends = BYTES_PER_TURN
    cdef bint is_open
    stand_in = None  # keeps a value alive that is written in place of an item
    while True:
        kind = Py_TYPE(item)
        is_open = True
        if kind == &PyUnicode_Type:
            if writing.lent != NULL and PyUnicode_IS_ASCII(item) and PyUnicode_GET_LENGTH(item) >= LENT_SIZE:
                cursor = _lend(writing, cursor, item, PyUnicode_GET_LENGTH(item))
            else:
                cursor = put_text(output, cursor, item)
        elif kind == &PyLong_Type:
            cursor = put_integer(output, cursor, item)
        elif kind == &PyFloat_Type:
            cursor = put_float(output, cursor, PyFloat_AS_DOUBLE(item))
        elif kind == _Atom:
            cursor = put_atom(output, cursor, item)
        elif kind == &PyDict_Type:
            size = PyDict_GET_SIZE(item)
            cursor = put_head(output, cursor, MAP, size)
            is_open = not size or _open(writing, item, MAP, size, max_depth)
        elif kind == &PyList_Type:
            size = PyList_GET_SIZE(item)
            if is_string(item, size):
                cursor = put_string(output, cursor, item, size)
            else:
                cursor = put_head(output, cursor, LIST if size else NIL, size)
                is_open = not size or _open(writing, item, LIST, size, max_depth)
        elif kind == &PyTuple_Type:
            size = PyTuple_GET_SIZE(item)
            cursor = put_head(output, cursor, SMALL_TUPLE if size < 256 else LARGE_TUPLE, size)
            is_open = not size or _open(writing, item, SMALL_TUPLE, size, max_depth)
        elif item == Py_None:
            cursor = put_name(output, cursor, b"nil", 3)
        elif item == Py_True:
            cursor = put_name(output, cursor, b"true", 4)
        elif item == Py_False:
            cursor = put_name(output, cursor, b"false", 5)
        elif kind == &PyBytes_Type:
            size = PyBytes_GET_SIZE(item)
            if writing.lent != NULL and size >= LENT_SIZE:
                cursor = _lend(writing, cursor, item, size)
            else:
                cursor = put_binary(output, cursor, <uint8_t*>PyBytes_AS_STRING(item), size)
        else:
            stand_in = <object>item
            _detach(writing)
            if isinstance(stand_in, IDENTIFIERS):
                stand_in = identifier(stand_in)
                item = <PyObject*>stand_in
                cursor = put(output, cursor, <uint8_t*>PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
            elif type(stand_in) is ImproperList:
                stand_in = (*stand_in.items, stand_in.tail)
                item = <PyObject*>stand_in
                size = PyTuple_GET_SIZE(item)
                cursor = put_head(output, cursor, LIST, size - 1)
                is_open = _open(writing, item, SMALL_TUPLE, size, max_depth)
            else:
                stand_in = plain(stand_in)
                item = <PyObject*>stand_in
                continue
        # Go on with the next item, and close the containers that are complete.
        if cursor - output.start > turn_ends and is_open:
            _detach(writing)
            let_others_run()
            turn_ends = cursor - output.start + BYTES_PER_TURN
        while True:
            if cursor == NULL or not is_open:
                return NULL
            if not writing.depth:
                return cursor
            top = writing.around + writing.depth - 1
            item = _next_in_map(writing, top, &cursor) if top.tag == MAP else _next_element(writing, top, &cursor)
            if item != NULL:
                break
            if cursor != NULL:
                _close(writing)


cdef uint8_t* _lend(Writing* writing, uint8_t* cursor, PyObject* data, Py_ssize_t size) except? NULL:
    """Write the head of a text or binary, and record in ``lent`` that its own memory follows there.

    The comparison of map keys does not see lent bytes. So two different keys may look equal, and the encoder falls back
    to the reference; equal keys never look different.
    """
    cursor = put_head(&writing.output, cursor, BINARY, size)
    if cursor != NULL:
        (<list>writing.lent).append((cursor - writing.output.start, memoryview(Lent.__new__(Lent, <object>data))))
        writing.lent_size += size
    return cursor


cdef class Lent:
    """A view of the bytes of an ASCII text or a binary, without a copy; keeps the text or binary alive."""

    cdef object _owner

    def __cinit__(self, owner):
        self._owner = owner

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        cdef PyObject* owner = <PyObject*>self._owner
        if Py_TYPE(owner) == &PyUnicode_Type:
            PyBuffer_FillInfo(buffer, self, PyUnicode_DATA(owner), PyUnicode_GET_LENGTH(owner), True, flags)
        else:
            PyBuffer_FillInfo(buffer, self, PyBytes_AS_STRING(owner), PyBytes_GET_SIZE(owner), True, flags)


cdef inline PyObject* _next_element(Writing* writing, Opened* top, uint8_t** cursor) noexcept:
    """Return the next item of a list or tuple, ``NULL`` at its end; set the cursor to ``NULL`` if its size changed."""
    if top.tag != LIST:
        if top.position == top.size:
            return NULL
        top.position += 1
        return PyTuple_GET_ITEM(top.container, top.position - 1)
    if top.position < PyList_GET_SIZE(top.container):
        top.position += 1
        return PyList_GET_ITEM(top.container, top.position - 1)
    cursor[0] = put_head(&writing.output, cursor[0], NIL, 0) if top.position == top.size else NULL
    return NULL


cdef inline PyObject* _next_in_map(Writing* writing, Opened* top, uint8_t** cursor) except? NULL:
    """Write the next key of a map and return its value; or return the key if it cannot be written at once.

    Return ``NULL`` at the end of the map; set the cursor to ``NULL`` if the map has changed, or two keys are one term.
    """
    cdef Output* output = &writing.output
    cdef PyObject* key
    cdef PyObject* value
    cdef PyTypeObject* kind
    if top.value != NULL:
        if not top.is_at_value:
            writing.keys[writing.keys_used - 1] = cursor[0] - output.start
            top.is_at_value = True
            return top.value
        Py_DECREF(top.value)
        top.value = NULL
    if top.written == top.size:
        if PyDict_GET_SIZE(top.container) != top.size or not _has_distinct_keys(writing, top):
            cursor[0] = NULL
        return NULL
    if (
        not PyDict_Next(top.container, &top.position, &key, &value)
        or (writing.keys_used == writing.keys_room and not _make_room_for_keys(writing))
    ):
        cursor[0] = NULL
        return NULL
    top.written += 1
    writing.keys[writing.keys_used] = cursor[0] - output.start
    writing.keys_used += 2
    kind = Py_TYPE(key)
    if kind == &PyUnicode_Type:
        cursor[0] = put_text(output, cursor[0], key)
    elif kind == _Atom:
        cursor[0] = put_atom(output, cursor[0], key)
    elif kind == &PyLong_Type:
        cursor[0] = put_integer(output, cursor[0], key)
    else:
        # A key of another type may be the same term as another key: b"a" as "a", None as Atom("nil").
        top.is_mixed = True
        top.is_at_value = False
        Py_INCREF(value)
        top.value = value
        return key
    if cursor[0] == NULL:
        return NULL
    writing.keys[writing.keys_used - 1] = cursor[0] - output.start
    return value


cdef inline void _close(Writing* writing) noexcept:
    """Leave the innermost container, which is complete."""
    cdef Opened* top = writing.around + writing.depth - 1
    writing.keys_used = top.first_key
    writing.depth -= 1
    writing.detached = min(writing.detached, writing.depth)
    Py_DECREF(top.container)


cdef inline bint _open(Writing* writing, PyObject* container, int tag, Py_ssize_t size, Py_ssize_t max_depth) noexcept:
    cdef Opened* top
    if writing.depth >= max_depth or (writing.depth == writing.room and not _make_room_for_opened(writing)):
        return False
    top = writing.around + writing.depth
    writing.depth += 1
    Py_INCREF(container)
    top.container = container
    top.value = NULL
    top.position = top.written = 0
    top.size = size
    top.first_key = writing.keys_used
    top.is_mixed = False
    top.tag = tag
    return True


cdef bint _make_room_for_opened(Writing* writing) noexcept:
    cdef void* around = enlarged(writing.around, writing.first, writing.room * sizeof(Opened))
    if around == NULL:
        return False
    writing.around = <Opened*>around
    writing.room *= 2
    return True


cdef bint _make_room_for_keys(Writing* writing) noexcept:
    cdef void* keys = enlarged(writing.keys, writing.first_keys, writing.keys_room * sizeof(Py_ssize_t))
    if keys == NULL:
        return False
    writing.keys = <Py_ssize_t*>keys
    writing.keys_room *= 2
    return True


cdef int _detach(Writing* writing) except -1:
    """Copy the open maps, so that neither code that runs next nor another thread can change them.

    A change of a list is noticed by its size. A changed map may have the same size, and be written with a key twice.
    """
    cdef Opened* opened
    cdef PyObject* copy
    cdef PyObject* key
    cdef PyObject* value
    while writing.detached < writing.depth:
        opened = writing.around + writing.detached
        if opened.tag == MAP:
            copy = PyDict_Copy(opened.container)
            if copy == NULL:
                raise MemoryError
            Py_DECREF(opened.container)
            opened.container = copy
            opened.position = 0
            for _ in range(opened.written):
                PyDict_Next(copy, &opened.position, &key, &value)
        writing.detached += 1
    return 0


cdef inline bint _has_distinct_keys(Writing* writing, Opened* top) except -1:
    """Return whether the encoded keys of the map that ends here differ; compare them only if the map is mixed."""
    cdef const char* start = <const char*>writing.output.start
    cdef Py_ssize_t i
    if not top.is_mixed:
        return True
    written = set()
    for i in range(top.first_key, writing.keys_used, 2):
        written.add(start[writing.keys[i] : writing.keys[i + 1]])
    return 2 * len(written) == writing.keys_used - top.first_key
