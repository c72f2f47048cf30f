# From Python values to bytes: part of native.pyx.

cdef enum:
    # Terms up to this size are written into memory that is kept, and copied out once. Longer ones go on in the bytes
    # object that will be given out, which the system moves without a copy when it grows.
    SCRATCH_SIZE = 65_536

    MAX_ATOM_CHARACTERS = 255
    MAX_STRING_SIZE = 0xFFFF
    KEYS_AT_START = 128

cdef uint8_t _scratch[SCRATCH_SIZE]
cdef bint _scratch_is_free = True


# The memory that is written to. How far it is filled is known to who writes: a cursor that stays in a register, where a
# field would be read again after each byte, since C lets bytes be part of anything.
cdef struct Output:
    uint8_t* start
    uint8_t* end
    PyObject* owner  # the bytes object that this is in, owned; NULL for the scratch memory


# A container that is being written.
cdef struct Opened:
    PyObject* container  # owned
    PyObject* value  # owned; of a map whose key is being written
    Py_ssize_t position  # of the next element; for a map as PyDict_Next counts
    Py_ssize_t written  # entries of a map, with the one being written
    Py_ssize_t size  # elements or entries
    Py_ssize_t first_key  # its place among the keys
    bint is_mixed  # of a map: keys that differ may be the same term
    int tag


cdef struct Writing:
    Output output
    Opened* around  # the containers around what is written, the outermost first
    Py_ssize_t depth
    Py_ssize_t room  # in `around`
    Py_ssize_t detached  # how many of them, from the outermost, nobody else can change
    Py_ssize_t* keys  # where in the output the keys of these maps begin and end, in turn
    Py_ssize_t keys_used
    Py_ssize_t keys_room
    Opened first[FRAMES_AT_START]
    Py_ssize_t first_keys[KEYS_AT_START]


def encode(term, *, int compressed=0, Py_ssize_t max_depth=MAX_DEPTH, int packet=0):
    """Encode one term; see the reference."""
    if compressed:
        data = deflated(encode(term, max_depth=max_depth), compressed)
        return frame_length(len(data), packet) + data if packet else data
    encoded = _encoded(term, max_depth, packet)
    return reference.encode(term, max_depth=max_depth, packet=packet) if encoded is None else encoded


cdef object _encoded(term, Py_ssize_t max_depth, int packet):
    """Give the bytes, or ``None`` where the reference is to say what is wrong."""
    global _scratch_is_free
    cdef Writing writing
    cdef uint8_t* cursor
    cdef bint has_scratch = _scratch_is_free  # it has not while another thread, or a caller of ours, is encoding
    if packet != 0 and packet != 1 and packet != 2 and packet != 4:
        return None
    writing.around = writing.first
    writing.room = FRAMES_AT_START
    writing.depth = writing.detached = 0
    writing.keys = writing.first_keys
    writing.keys_used = 0
    writing.keys_room = KEYS_AT_START
    writing.output.owner = NULL
    writing.output.start = _scratch if has_scratch else NULL
    writing.output.end = _scratch + SCRATCH_SIZE if has_scratch else NULL
    try:
        _scratch_is_free = False
        cursor = _with_room(&writing.output, writing.output.start, packet + 1)
        if cursor != NULL:
            cursor[packet] = VERSION
            cursor = _write(&writing, cursor + packet + 1, term, max_depth)
        if cursor != NULL and _put_length(&writing.output, cursor, packet):
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
    """Give what was written as a bytes object."""
    cdef PyObject* owner = output.owner
    if owner == NULL:
        owner = PyBytes_FromStringAndSize(<char*>output.start, cursor - output.start)
    else:
        output.owner = NULL
        _PyBytes_Resize(&owner, cursor - output.start)  # makes it NULL where it fails
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
    """Write a term at the cursor, and give the new one; ``NULL`` where the reference is to be asked."""
    cdef Output* output = &writing.output
    cdef PyObject* item = <PyObject*>root
    cdef PyObject* key
    cdef PyObject* value
    cdef PyTypeObject* kind
    cdef Opened* top
    cdef Py_ssize_t size
    cdef bint is_open
    stand_in = None  # keeps alive what is written in the place of an item
    while True:
        kind = Py_TYPE(item)
        is_open = True
        if kind == &PyUnicode_Type:
            cursor = _put_text(output, cursor, item)
        elif kind == &PyLong_Type:
            cursor = _put_integer(output, cursor, item)
        elif kind == &PyFloat_Type:
            cursor = _put_float(output, cursor, PyFloat_AS_DOUBLE(item))
        elif kind == _Atom:
            cursor = _put_atom(output, cursor, item)
        elif kind == &PyDict_Type:
            size = PyDict_GET_SIZE(item)
            cursor = _put_head(output, cursor, MAP, size)
            is_open = not size or _open(writing, item, MAP, size, max_depth)
        elif kind == &PyList_Type:
            size = PyList_GET_SIZE(item)
            if _is_string(item, size):
                cursor = _put_string(output, cursor, item, size)
            else:
                cursor = _put_head(output, cursor, LIST if size else NIL, size)
                is_open = not size or _open(writing, item, LIST, size, max_depth)
        elif kind == &PyTuple_Type:
            size = PyTuple_GET_SIZE(item)
            cursor = _put_head(output, cursor, SMALL_TUPLE if size < 256 else LARGE_TUPLE, size)
            is_open = not size or _open(writing, item, SMALL_TUPLE, size, max_depth)
        elif item == Py_None:
            cursor = _put_name(output, cursor, b"nil", 3)
        elif item == Py_True:
            cursor = _put_name(output, cursor, b"true", 4)
        elif item == Py_False:
            cursor = _put_name(output, cursor, b"false", 5)
        elif kind == &PyBytes_Type:
            cursor = _put_binary(output, cursor, <uint8_t*>PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
        else:
            stand_in = <object>item
            _detach(writing)
            if isinstance(stand_in, IDENTIFIERS):
                stand_in = identifier(stand_in)
                item = <PyObject*>stand_in
                cursor = _put(output, cursor, <uint8_t*>PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
            elif type(stand_in) is ImproperList:
                stand_in = (*stand_in.items, stand_in.tail)
                item = <PyObject*>stand_in
                size = PyTuple_GET_SIZE(item)
                cursor = _put_head(output, cursor, LIST, size - 1)
                is_open = _open(writing, item, SMALL_TUPLE, size, max_depth)
            else:
                stand_in = plain(stand_in)
                item = <PyObject*>stand_in
                continue
        # Go on with what follows, and close what has been written.
        while True:
            if cursor == NULL or not is_open:
                return NULL
            if not writing.depth:
                return cursor
            top = writing.around + writing.depth - 1
            if top.tag == MAP:
                if top.value != NULL:
                    writing.keys[writing.keys_used - 1] = cursor - output.start
                    stand_in = _owned(top.value)
                    top.value = NULL
                    item = <PyObject*>stand_in
                    break
                if PyDict_Next(top.container, &top.position, &key, &value):
                    top.written += 1
                    if writing.keys_used == writing.keys_room and not _make_room_for_keys(writing):
                        return NULL
                    writing.keys[writing.keys_used] = cursor - output.start
                    writing.keys_used += 2
                    kind = Py_TYPE(key)
                    if kind == &PyUnicode_Type:
                        cursor = _put_text(output, cursor, key)
                    elif kind == _Atom:
                        cursor = _put_atom(output, cursor, key)
                    elif kind == &PyLong_Type:
                        cursor = _put_integer(output, cursor, key)
                    else:
                        # Unlike those above, such a key may be the same term as another: as b"a" is "a", None Atom("nil").
                        top.is_mixed = True
                        Py_INCREF(value)
                        top.value = value
                        item = key
                        break
                    if cursor == NULL:
                        return NULL
                    writing.keys[writing.keys_used - 1] = cursor - output.start
                    item = value
                    break
                if top.written != top.size or (top.is_mixed and not _has_distinct_keys(writing, top.first_key)):
                    return NULL
                writing.keys_used = top.first_key
            elif top.tag == LIST:
                if top.position < PyList_GET_SIZE(top.container):
                    item = PyList_GET_ITEM(top.container, top.position)
                    top.position += 1
                    break
                if top.position != top.size:
                    return NULL
                cursor = _put_head(output, cursor, NIL, 0)
            elif top.position < top.size:
                item = PyTuple_GET_ITEM(top.container, top.position)
                top.position += 1
                break
            writing.depth -= 1
            writing.detached = min(writing.detached, writing.depth)
            Py_DECREF(top.container)


cdef inline bint _open(Writing* writing, PyObject* container, int tag, Py_ssize_t size, Py_ssize_t max_depth) noexcept:
    cdef Opened* top
    if writing.depth >= max_depth or (writing.depth == writing.room and not _make_room_for_writing(writing)):
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


cdef bint _make_room_for_writing(Writing* writing) noexcept:
    cdef Py_ssize_t room = 2 * writing.room
    cdef Opened* around = NULL
    if writing.around == writing.first:
        around = <Opened*>PyMem_Malloc(room * sizeof(Opened))
        if around != NULL:
            memcpy(around, writing.first, sizeof(writing.first))
    else:
        around = <Opened*>PyMem_Realloc(writing.around, room * sizeof(Opened))
    if around == NULL:
        return False
    writing.around = around
    writing.room = room
    return True


cdef bint _make_room_for_keys(Writing* writing) noexcept:
    cdef Py_ssize_t room = 2 * writing.keys_room
    cdef Py_ssize_t* keys = NULL
    if writing.keys == writing.first_keys:
        keys = <Py_ssize_t*>PyMem_Malloc(room * sizeof(Py_ssize_t))
        if keys != NULL:
            memcpy(keys, writing.first_keys, sizeof(writing.first_keys))
    else:
        keys = <Py_ssize_t*>PyMem_Realloc(writing.keys, room * sizeof(Py_ssize_t))
    if keys == NULL:
        return False
    writing.keys = keys
    writing.keys_room = room
    return True


cdef int _detach(Writing* writing) except -1:
    """Make sure that what runs next cannot change the maps that are being written.

    Only Python code lets other threads run. A list that one of them changes has another size then; a map may have the
    size that it had, and a key twice.
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


cdef bint _has_distinct_keys(Writing* writing, Py_ssize_t first_key) except -1:
    """Compare the keys of the map that ends here, as they were written."""
    cdef const char* start = <const char*>writing.output.start
    cdef Py_ssize_t i
    written = set()
    for i in range(first_key, writing.keys_used, 2):
        written.add(start[writing.keys[i] : writing.keys[i + 1]])
    return 2 * len(written) == writing.keys_used - first_key


cdef inline uint8_t* _with_room(Output* output, uint8_t* cursor, Py_ssize_t size) noexcept:
    """Give the cursor of a memory that has room for so many bytes more, or ``NULL`` if there is none."""
    return cursor if output.end - cursor >= size else _grown(output, cursor - output.start, size)


cdef uint8_t* _grown(Output* output, Py_ssize_t used, Py_ssize_t size) noexcept:
    # Half as much again, so that time grows with the size and not with its square.
    cdef Py_ssize_t new_size = max(used + used // 2, used + size + 1024)
    cdef PyObject* owner
    if output.owner != NULL:
        if _PyBytes_Resize(&output.owner, new_size) < 0:
            return NULL
    else:
        owner = PyBytes_FromStringAndSize(NULL, new_size)
        if owner == NULL:
            return NULL
        if used:
            memcpy(PyBytes_AS_STRING(owner), output.start, used)
        output.owner = owner
    output.start = <uint8_t*>PyBytes_AS_STRING(output.owner)
    output.end = output.start + new_size
    return output.start + used


cdef bint _put_length(Output* output, uint8_t* cursor, int packet) noexcept:
    """Write the length of the frame, for which room was left at the beginning."""
    cdef Py_ssize_t size = cursor - output.start - packet
    cdef int i
    if packet and size >> (8 * packet):
        return False
    for i in range(packet):
        output.start[i] = <uint8_t>(size >> (8 * (packet - 1 - i)))
    return True


# Each of these takes the cursor and gives the new one, or NULL.

cdef inline uint8_t* _put(Output* output, uint8_t* cursor, const uint8_t* data, Py_ssize_t size) noexcept:
    cursor = _with_room(output, cursor, size)
    if cursor == NULL:
        return NULL
    memcpy(cursor, data, size)
    return cursor + size


cdef inline uint8_t* _put_head(Output* output, uint8_t* cursor, int tag, Py_ssize_t size) noexcept:
    """Write a tag and a size: of no byte for the empty list, of one for a small tuple, of four for all others."""
    if size >> 32:
        return NULL
    cursor = _with_room(output, cursor, 5)
    if cursor == NULL:
        return NULL
    cursor[0] = <uint8_t>tag
    if tag == NIL:
        return cursor + 1
    if tag == SMALL_TUPLE:
        cursor[1] = <uint8_t>size
        return cursor + 2
    store_u32(cursor + 1, <uint32_t>size)
    return cursor + 5


cdef inline uint8_t* _put_binary(Output* output, uint8_t* cursor, const uint8_t* data, Py_ssize_t size) noexcept:
    if size >> 32:
        return NULL
    cursor = _with_room(output, cursor, size + 5)
    if cursor == NULL:
        return NULL
    cursor[0] = BINARY
    store_u32(cursor + 1, <uint32_t>size)
    copy(cursor + 5, data, size)
    return cursor + 5 + size


cdef inline uint8_t* _put_text(Output* output, uint8_t* cursor, PyObject* text) noexcept:
    if PyUnicode_IS_ASCII(text):
        return _put_binary(output, cursor, <uint8_t*>PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text))
    return _put_utf8(output, cursor, text)


cdef uint8_t* _put_utf8(Output* output, uint8_t* cursor, PyObject* text) noexcept:
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(text), size
    # A character of Latin-1 takes 2 bytes at most, one of the basic plane 3, any other 4.
    cursor = _with_room(output, cursor, 5 + length * min(PyUnicode_KIND(text) + 1, 4))
    if cursor == NULL:
        return NULL
    size = _store_utf8(cursor + 5, text, length)
    return NULL if size < 0 or _put_head(output, cursor, BINARY, size) == NULL else cursor + 5 + size


cdef Py_ssize_t _store_utf8(uint8_t* place, PyObject* text, Py_ssize_t length) noexcept:
    """Write a text as UTF-8; give its size, or -1 if it has a lone surrogate."""
    cdef int kind = PyUnicode_KIND(text)
    cdef void* data = PyUnicode_DATA(text)
    cdef uint8_t* start = place
    cdef uint32_t character
    cdef Py_ssize_t i = 0
    while i < length:
        if kind == 1 and length - i >= 8 and are_8_ascii(<uint8_t*>data + i):
            memcpy(place, <uint8_t*>data + i, 8)
            place += 8
            i += 8
            continue
        character = PyUnicode_READ(kind, data, i)
        i += 1
        if character < 0x80:
            place[0] = <uint8_t>character
            place += 1
        elif character < 0x800:
            place[0] = <uint8_t>(0xC0 | character >> 6)
            place[1] = <uint8_t>(0x80 | character & 0x3F)
            place += 2
        elif character < 0x10000:
            if 0xD800 <= character <= 0xDFFF:
                return -1
            place[0] = <uint8_t>(0xE0 | character >> 12)
            place[1] = <uint8_t>(0x80 | character >> 6 & 0x3F)
            place[2] = <uint8_t>(0x80 | character & 0x3F)
            place += 3
        else:
            place[0] = <uint8_t>(0xF0 | character >> 18)
            place[1] = <uint8_t>(0x80 | character >> 12 & 0x3F)
            place[2] = <uint8_t>(0x80 | character >> 6 & 0x3F)
            place[3] = <uint8_t>(0x80 | character & 0x3F)
            place += 4
    return place - start


cdef inline uint8_t* _put_atom(Output* output, uint8_t* cursor, PyObject* atom) noexcept:
    if PyUnicode_GET_LENGTH(atom) > MAX_ATOM_CHARACTERS:
        return NULL
    if PyUnicode_IS_ASCII(atom):
        return _put_name(output, cursor, <const char*>PyUnicode_DATA(atom), PyUnicode_GET_LENGTH(atom))
    return _put_utf8_atom(output, cursor, atom)


cdef uint8_t* _put_utf8_atom(Output* output, uint8_t* cursor, PyObject* atom) noexcept:
    cdef uint8_t name[4 * MAX_ATOM_CHARACTERS]
    cdef Py_ssize_t size = _store_utf8(name, atom, PyUnicode_GET_LENGTH(atom))
    return NULL if size < 0 else _put_name(output, cursor, <const char*>name, size)


cdef inline uint8_t* _put_name(Output* output, uint8_t* cursor, const char* name, Py_ssize_t size) noexcept:
    cursor = _with_room(output, cursor, size + 3)
    if cursor == NULL:
        return NULL
    if size < 256:
        cursor[0] = SMALL_ATOM_UTF8
        cursor[1] = <uint8_t>size
        cursor += 2
    else:
        cursor[0] = ATOM_UTF8
        store_u16(cursor + 1, <uint32_t>size)
        cursor += 3
    copy(cursor, <const uint8_t*>name, size)
    return cursor + size


cdef inline uint8_t* _put_float(Output* output, uint8_t* cursor, double number) noexcept:
    if number - number != 0:  # the BEAM has neither NaN nor infinities
        if number != number:
            return _put_name(output, cursor, b"nan", 3)
        if number > 0:
            return _put_name(output, cursor, b"infinity", 8)
        return _put_name(output, cursor, b"neg_infinity", 12)
    cursor = _with_room(output, cursor, 9)
    if cursor == NULL:
        return NULL
    cursor[0] = NEW_FLOAT
    store_double(cursor + 1, number)
    return cursor + 9


cdef inline uint8_t* _put_integer(Output* output, uint8_t* cursor, PyObject* item) except? NULL:
    cdef int overflow
    cdef long long number = PyLong_AsLongLongAndOverflow(item, &overflow)
    if overflow:
        return _put_digits(output, cursor, <object>item)
    cursor = _with_room(output, cursor, 11)
    if cursor == NULL:
        return NULL
    if 0 <= number < 256:
        cursor[0] = SMALL_INTEGER
        cursor[1] = <uint8_t>number
        return cursor + 2
    if -0x80000000 <= number <= 0x7FFFFFFF:
        cursor[0] = INTEGER
        store_u32(cursor + 1, <uint32_t>number)
        return cursor + 5
    return _stored_long(cursor, number)


cdef uint8_t* _stored_long(uint8_t* cursor, long long number) noexcept:
    """Write an integer of 4 to 8 bytes as SMALL_BIG_EXT."""
    cdef uint64_t rest = <uint64_t>0 - <uint64_t>number if number < 0 else <uint64_t>number
    cdef int size = 0
    while rest:
        cursor[3 + size] = <uint8_t>rest
        rest >>= 8
        size += 1
    cursor[0] = SMALL_BIG
    cursor[1] = <uint8_t>size
    cursor[2] = number < 0
    return cursor + 3 + size


cdef uint8_t* _put_digits(Output* output, uint8_t* cursor, number) except? NULL:
    """Write an integer of more than 8 bytes. The methods of ``int`` are C: no other thread runs meanwhile."""
    cdef bytes digits
    cdef uint8_t sign = number < 0
    absolute = abs(number)
    size = (absolute.bit_length() + 7) // 8
    digits = absolute.to_bytes(size, "little")
    cursor = _with_room(output, cursor, 6)
    if cursor == NULL:
        return NULL
    if size < 256:
        cursor[0] = SMALL_BIG
        cursor[1] = size
        cursor += 2
    else:
        cursor = _put_head(output, cursor, LARGE_BIG, size)
        if cursor == NULL:
            return NULL
    cursor[0] = sign
    return _put(output, cursor + 1, digits, size)


cdef bint _is_string(PyObject* items, Py_ssize_t size) noexcept:
    """Say whether a list has bytes only. ``True`` and ``1`` are different terms, so that only real integers count."""
    cdef PyObject* item
    cdef Py_ssize_t i
    cdef long long number
    cdef int overflow
    if size == 0 or size > MAX_STRING_SIZE:
        return False
    for i in range(size):
        item = PyList_GET_ITEM(items, i)
        if Py_TYPE(item) != &PyLong_Type:
            return False
        number = PyLong_AsLongLongAndOverflow(item, &overflow)
        if overflow or number < 0 or number > 255:
            return False
    return True


cdef uint8_t* _put_string(Output* output, uint8_t* cursor, PyObject* items, Py_ssize_t size) noexcept:
    """Write a list of bytes in the form that is its own."""
    cdef Py_ssize_t i
    cdef int overflow
    cursor = _with_room(output, cursor, size + 3)
    if cursor == NULL:
        return NULL
    cursor[0] = STRING
    store_u16(cursor + 1, <uint32_t>size)
    for i in range(size):
        cursor[3 + i] = <uint8_t>PyLong_AsLongLongAndOverflow(PyList_GET_ITEM(items, i), &overflow)
    return cursor + 3 + size
