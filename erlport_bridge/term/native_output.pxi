# The output buffer of the encoder, and a function that writes each kind of term to it: part of native.pyx.

cdef enum:
    MAX_ATOM_CHARACTERS = 255
    MAX_STRING_SIZE = 0xFFFF


# The memory that is written to. The writing function holds the cursor, the end of the written bytes, in a register. A
# field would be read again after each byte, because in C a byte pointer may alias anything.
cdef struct Output:
    uint8_t* start
    uint8_t* end
    PyObject* owner  # owned: the bytes object that holds the memory; NULL for the scratch memory


cdef inline uint8_t* with_room(Output* output, uint8_t* cursor, Py_ssize_t size) noexcept:
    """Return the cursor of an output with room for ``size`` bytes more, or ``NULL`` if memory runs out."""
    return cursor if output.end - cursor >= size else _grown(output, cursor - output.start, size)


cdef uint8_t* _grown(Output* output, Py_ssize_t used, Py_ssize_t size) noexcept:
    # Grow by half, so that the time is linear in the size, not quadratic.
    cdef Py_ssize_t new_size = max(used + used // 2, used + size + 1024)
    cdef PyObject* owner
    if output.owner != NULL:
        if _PyBytes_Resize(&output.owner, new_size) < 0:
            return NULL
        if new_size >= LARGE_MEMORY:
            use_large_pages(PyBytes_AS_STRING(output.owner) + used, new_size - used)
    else:
        owner = new_bytes(new_size)
        if owner == NULL:
            return NULL
        if used:
            memcpy(PyBytes_AS_STRING(owner), output.start, used)
        output.owner = owner
    output.start = <uint8_t*>PyBytes_AS_STRING(output.owner)
    output.end = output.start + new_size
    return output.start + used


cdef bint put_length(Output* output, uint8_t* cursor, int packet, Py_ssize_t lent_size) noexcept:
    """Write the length of the frame into the space that was reserved at the beginning."""
    cdef Py_ssize_t size = cursor - output.start - packet + lent_size
    cdef int i
    if packet and size >> (8 * packet):
        return False
    for i in range(packet):
        output.start[i] = <uint8_t>(size >> (8 * (packet - 1 - i)))
    return True


# Each function below takes the cursor and returns the new cursor, or NULL.

cdef inline uint8_t* put(Output* output, uint8_t* cursor, const uint8_t* data, Py_ssize_t size) noexcept:
    cursor = with_room(output, cursor, size)
    if cursor == NULL:
        return NULL
    memcpy(cursor, data, size)
    return cursor + size


cdef inline uint8_t* put_head(Output* output, uint8_t* cursor, int tag, Py_ssize_t size) noexcept:
    """Write a tag and a size: no byte for the empty list, one for a small tuple, four for all others."""
    if size >> 32:
        return NULL
    cursor = with_room(output, cursor, 5)
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


cdef inline uint8_t* put_binary(Output* output, uint8_t* cursor, const uint8_t* data, Py_ssize_t size) noexcept:
    if size >> 32:
        return NULL
    cursor = with_room(output, cursor, size + 5)
    if cursor == NULL:
        return NULL
    cursor[0] = BINARY
    store_u32(cursor + 1, <uint32_t>size)
    copy(cursor + 5, data, size)
    return cursor + 5 + size


cdef inline uint8_t* put_text(Output* output, uint8_t* cursor, PyObject* text) noexcept:
    if PyUnicode_IS_ASCII(text):
        return put_binary(output, cursor, <uint8_t*>PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text))
    return _put_utf8(output, cursor, text)


cdef uint8_t* _put_utf8(Output* output, uint8_t* cursor, PyObject* text) noexcept:
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(text), size
    # In UTF-8 a character of Latin-1 takes at most 2 bytes, a character of the basic plane 3, any other 4.
    cursor = with_room(output, cursor, 5 + length * min(PyUnicode_KIND(text) + 1, 4))
    if cursor == NULL:
        return NULL
    size = store_utf8(cursor + 5, text, length)
    return NULL if size < 0 or put_head(output, cursor, BINARY, size) == NULL else cursor + 5 + size


cdef inline uint8_t* put_atom(Output* output, uint8_t* cursor, PyObject* atom) noexcept:
    if PyUnicode_GET_LENGTH(atom) > MAX_ATOM_CHARACTERS:
        return NULL
    if PyUnicode_IS_ASCII(atom):
        return put_name(output, cursor, <const char*>PyUnicode_DATA(atom), PyUnicode_GET_LENGTH(atom))
    return _put_utf8_atom(output, cursor, atom)


cdef uint8_t* _put_utf8_atom(Output* output, uint8_t* cursor, PyObject* atom) noexcept:
    cdef uint8_t name[4 * MAX_ATOM_CHARACTERS]
    cdef Py_ssize_t size = store_utf8(name, atom, PyUnicode_GET_LENGTH(atom))
    return NULL if size < 0 else put_name(output, cursor, <const char*>name, size)


cdef inline uint8_t* put_name(Output* output, uint8_t* cursor, const char* name, Py_ssize_t size) noexcept:
    cursor = with_room(output, cursor, size + 3)
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


cdef inline uint8_t* put_float(Output* output, uint8_t* cursor, double number) noexcept:
    if number - number != 0:  # the BEAM has neither NaN nor infinities
        if number != number:
            return put_name(output, cursor, b"nan", 3)
        if number > 0:
            return put_name(output, cursor, b"infinity", 8)
        return put_name(output, cursor, b"neg_infinity", 12)
    cursor = with_room(output, cursor, 9)
    if cursor == NULL:
        return NULL
    cursor[0] = NEW_FLOAT
    store_double(cursor + 1, number)
    return cursor + 9


cdef inline uint8_t* put_integer(Output* output, uint8_t* cursor, PyObject* item) except? NULL:
    cdef int overflow
    cdef long long number = PyLong_AsLongLongAndOverflow(item, &overflow)
    if overflow:
        return _put_digits(output, cursor, <object>item)
    cursor = with_room(output, cursor, 11)
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
    """Write an integer of more than 8 bytes. The methods of ``int`` are in C: no other thread runs meanwhile."""
    cdef bytes digits
    cdef uint8_t sign = number < 0
    absolute = abs(number)
    size = (absolute.bit_length() + 7) // 8
    digits = absolute.to_bytes(size, "little")
    cursor = with_room(output, cursor, 6)
    if cursor == NULL:
        return NULL
    if size < 256:
        cursor[0] = SMALL_BIG
        cursor[1] = size
        cursor += 2
    else:
        cursor = put_head(output, cursor, LARGE_BIG, size)
        if cursor == NULL:
            return NULL
    cursor[0] = sign
    return put(output, cursor + 1, digits, size)


cdef bint is_string(PyObject* items, Py_ssize_t size) noexcept:
    """Return whether a list holds bytes only. ``True`` and ``1`` are different terms, so only exact integers count."""
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


cdef uint8_t* put_string(Output* output, uint8_t* cursor, PyObject* items, Py_ssize_t size) noexcept:
    """Write a list of bytes as STRING_EXT."""
    cdef Py_ssize_t i
    cdef int overflow
    cursor = with_room(output, cursor, size + 3)
    if cursor == NULL:
        return NULL
    cursor[0] = STRING
    store_u16(cursor + 1, <uint32_t>size)
    for i in range(size):
        cursor[3 + i] = <uint8_t>PyLong_AsLongLongAndOverflow(PyList_GET_ITEM(items, i), &overflow)
    return cursor + 3 + size
