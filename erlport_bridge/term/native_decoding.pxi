# From bytes to Python values: part of native.pyx.

cdef enum:
    IMPROPER = 256  # a list of which only the tail is missing; no tag is as large

    # Names are remembered up to this size. Those of fields and options are shorter.
    MAX_REMEMBERED_SIZE = 46
    REMEMBERED_BITS = 10

    FRAMES_AT_START = 32


# What a name was read as. One place for each value of a hash; a later name takes the place of an earlier one.
cdef struct Remembered:
    PyObject* term  # owned; NULL while the place is free
    uint8_t size
    uint8_t is_ascii
    uint8_t name[MAX_REMEMBERED_SIZE]

cdef Remembered _atoms[1 << REMEMBERED_BITS]
cdef Remembered _keys[1 << REMEMBERED_BITS]


# A container that is being filled.
cdef struct Container:
    PyObject* container  # owned
    PyObject* key  # owned; of a map whose next value is being read
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
    cdef bytes buffer = data if type(data) is bytes else bytes(memoryview(data))
    cdef Reading reading
    cdef PyObject* term = NULL
    cdef bint collects
    reading.position = 1
    if PyBytes_GET_SIZE(<PyObject*>buffer) > 1 and (<const uint8_t*>buffer)[0] == VERSION:
        if (<const uint8_t*>buffer)[1] == COMPRESSED:
            buffer = inflated(buffer, max_bytes)
            reading.position = 0
        reading.data = <const uint8_t*>PyBytes_AS_STRING(<PyObject*>buffer)
        reading.size = PyBytes_GET_SIZE(<PyObject*>buffer)
        reading.around = reading.first
        reading.room = FRAMES_AT_START
        reading.depth = 0
        # Thousands of new containers would set off the collector again and again, to find that all are in use.
        collects = PyGC_Disable()
        try:
            term = _read(&reading, buffer, max_depth)
        except Exception:  # the reference says what it is
            pass
        finally:
            if collects:
                PyGC_Enable()
            _drop(&reading)
    if term == NULL:
        return reference.decode(data, max_depth=max_depth, max_bytes=max_bytes)
    return _owned(term)


cdef object _owned(PyObject* term):
    """Give an object whose reference is ours as Cython's."""
    value = <object>term
    Py_DECREF(term)
    return value


cdef PyObject* _shared(value) noexcept:
    """Give a reference of our own to an object of Cython's."""
    Py_INCREF(<PyObject*>value)
    return <PyObject*>value


cdef void _drop(Reading* reading) noexcept:
    """Let go of the containers that have not been completed."""
    while reading.depth:
        reading.depth -= 1
        Py_XDECREF(reading.around[reading.depth].container)
        Py_XDECREF(reading.around[reading.depth].key)
    if reading.around != reading.first:
        PyMem_Free(reading.around)


cdef PyObject* _read(Reading* reading, bytes buffer, Py_ssize_t max_depth) except? NULL:
    """Read the one term from the position to the end of the data."""
    cdef const uint8_t* data = reading.data
    cdef Py_ssize_t size = reading.size, i = reading.position
    cdef Py_ssize_t count, children
    # Terms that are still owed. Each takes a byte at least, so a container that claims more is a lie, and is found out
    # before there is room for it: also where each of many containers claims all that is left.
    cdef Py_ssize_t owed = 1
    cdef Container* top = NULL
    cdef bint at_key = False
    cdef int tag
    cdef uint32_t length
    cdef double number
    cdef PyObject* term
    while True:
        if i >= size:
            return NULL
        tag = data[i]
        owed -= 1
        if tag == BINARY:
            if size - i < 5:
                return NULL
            length = load_u32(data + i + 1)
            i += 5
            if length > size - i:
                return NULL
            if at_key and length <= MAX_REMEMBERED_SIZE:
                term = _key(data + i, length)
            else:
                term = _text(data + i, length)
            i += length
        elif tag == SMALL_ATOM_UTF8 or tag == SMALL_ATOM:
            if size - i < 2 or data[i + 1] > size - i - 2:
                return NULL
            length = data[i + 1]
            term = _atom(data + i + 2, length, tag == SMALL_ATOM)
            i += 2 + length
        elif tag == SMALL_INTEGER:
            if size - i < 2:
                return NULL
            term = PyLong_FromLong(data[i + 1])
            i += 2
        elif tag == INTEGER:
            if size - i < 5:
                return NULL
            term = PyLong_FromLong(<int>load_u32(data + i + 1))
            i += 5
        elif tag == NEW_FLOAT:
            if size - i < 9:
                return NULL
            number = load_double(data + i + 1)
            if number - number != 0:
                return NULL
            term = PyFloat_FromDouble(number)
            i += 9
        elif tag == NIL:
            term = PyList_New(0)
            i += 1
        elif tag == MAP or tag == LIST or tag == SMALL_TUPLE or tag == LARGE_TUPLE:
            if tag == SMALL_TUPLE:
                if size - i < 2:
                    return NULL
                count = data[i + 1]
                i += 2
            else:
                if size - i < 5:
                    return NULL
                count = load_u32(data + i + 1)
                i += 5
            children = count
            if tag == MAP:
                children = 2 * count
            elif tag == LIST:
                children = count + 1
            owed += children
            if owed > size - i:
                return NULL
            if count:
                if reading.depth >= max_depth or (reading.depth == reading.room and not _make_room(reading)):
                    return NULL
                if tag == MAP:
                    # Without room for the entries to come: the function for that gives a table for keys of any type,
                    # which is larger and no faster.
                    term = PyDict_New()
                elif tag == LIST:
                    term = PyList_New(count)
                else:
                    term = PyTuple_New(count)
                if term == NULL:
                    return NULL
                top = reading.around + reading.depth
                reading.depth += 1
                top.container = term
                top.key = NULL
                top.filled = 0
                top.size = count
                top.tag = tag
                top.is_struct = False
                at_key = tag == MAP
                continue
            if tag == LIST:
                return NULL
            term = PyDict_New() if tag == MAP else PyTuple_New(0)
        elif tag == STRING:
            if size - i < 3:
                return NULL
            length = load_u16(data + i + 1)
            i += 3
            if length > size - i:
                return NULL
            term = _small_integers(data + i, length)
            i += length
        elif tag == ATOM_UTF8 or tag == ATOM:
            if size - i < 3 or load_u16(data + i + 1) > size - i - 3:
                return NULL
            length = load_u16(data + i + 1)
            term = _atom(data + i + 3, length, tag == ATOM)
            i += 3 + length
        elif tag == SMALL_BIG and size - i >= 3 and data[i + 1] < 8 and data[i + 1] <= size - i - 3 and data[i + 2] < 2:
            length = data[i + 1]
            term = _integer(data + i + 3, length, data[i + 2])
            i += 3 + length
        else:
            term = _rare(tag, buffer, &i)
        if term == NULL:
            return NULL
        # Put it where it belongs, and what it completes, too.
        while True:
            if top == NULL:
                if i != size:
                    Py_DECREF(term)
                    return NULL
                return term
            if top.tag == MAP:
                if top.key == NULL:
                    top.key = _hashable(term)
                    if top.key == NULL:
                        return NULL
                    if top.key == <PyObject*>STRUCT:
                        top.is_struct = True
                    at_key = False
                    break
                if not _enter(top, term):
                    return NULL
                if top.filled < top.size:
                    at_key = True
                    break
                if PyDict_GET_SIZE(top.container) != top.size:
                    return NULL
                if top.is_struct:
                    term = _shared(from_struct(<object>top.container))
                    Py_DECREF(top.container)
                else:
                    term = top.container
            elif top.tag == LIST:
                PyList_SET_ITEM(top.container, top.filled, term)
                top.filled += 1
                at_key = False
                if top.filled < top.size:
                    break
                if i >= size or data[i] == LIST or data[i] == STRING:
                    return NULL
                if data[i] != NIL:
                    top.tag = IMPROPER
                    break
                i += 1
                owed -= 1
                term = top.container
            elif top.tag == IMPROPER:
                term = _shared(ImproperList(<object>top.container, _owned(term)))
                Py_DECREF(top.container)
            else:
                PyTuple_SET_ITEM(top.container, top.filled, term)
                top.filled += 1
                at_key = False
                if top.filled < top.size:
                    break
                if top.size == 3 and PyTuple_GET_ITEM(top.container, 0) == <PyObject*>OPAQUE:
                    term = _shared(opaque_term(<object>top.container))
                    Py_DECREF(top.container)
                else:
                    term = top.container
            reading.depth -= 1
            top = reading.around + reading.depth - 1 if reading.depth else NULL


cdef bint _make_room(Reading* reading) noexcept:
    cdef Py_ssize_t room = 2 * reading.room
    cdef Container* around = NULL
    if reading.around == reading.first:
        around = <Container*>PyMem_Malloc(room * sizeof(Container))
        if around != NULL:
            memcpy(around, reading.first, sizeof(reading.first))
    else:
        around = <Container*>PyMem_Realloc(reading.around, room * sizeof(Container))
    if around == NULL:
        return False
    reading.around = around
    reading.room = room
    return True


cdef inline bint _enter(Container* top, PyObject* value) noexcept:
    """Put a value into a map, under the key that waits for it."""
    cdef int status = PyDict_SetItem(top.container, top.key, value)
    Py_DECREF(top.key)
    Py_DECREF(value)
    top.key = NULL
    top.filled += 1
    if status < 0:
        PyErr_Clear()  # erlang-py's classes cannot be compared with others
    return status == 0


cdef inline PyObject* _hashable(PyObject* key) except? NULL:
    """Give a key as it stands in a map, in exchange for a reference to it."""
    cdef PyTypeObject* kind = Py_TYPE(key)
    if kind == &PyUnicode_Type or kind == _Atom or kind == &PyLong_Type:
        return key
    return _shared(freeze(_owned(key)))


cdef PyObject* _text(const uint8_t* data, Py_ssize_t size) noexcept:
    """Give a binary: as text if it is UTF-8."""
    cdef PyObject* text
    cdef Py_ssize_t length
    cdef uint8_t largest = 0
    if is_ascii(data, size):
        if size == 1:
            return PyUnicode_FromOrdinal(data[0])
        text = PyUnicode_New(size, 127)
        if text != NULL and size:
            copy(<uint8_t*>PyUnicode_DATA(text), data, size)
        return text
    # Python's own decoder makes a second copy of the text while it reads it, and one of the bytes for its exception.
    length = _utf8_length(data, size, &largest)
    if length < 0:
        return PyBytes_FromStringAndSize(<const char*>data, size)
    # The largest byte says how wide the characters are: 1, 2 or 4 bytes each.
    if largest < 0xC4:
        text = PyUnicode_New(length, 0xFF)
        if text != NULL:
            _fill_text(<uint8_t*>PyUnicode_DATA(text), data, length)
    elif largest < 0xF0:
        text = PyUnicode_New(length, 0xFFFF)
        if text != NULL:
            _fill_text(<uint16_t*>PyUnicode_DATA(text), data, length)
    else:
        text = PyUnicode_New(length, 0x10FFFF)
        if text != NULL:
            _fill_text(<uint32_t*>PyUnicode_DATA(text), data, length)
    return text


cdef Py_ssize_t _utf8_length(const uint8_t* data, Py_ssize_t size, uint8_t* largest) noexcept nogil:
    """Give how many characters the bytes are, and the largest byte; -1 if they are not UTF-8.

    As Unicode has it (table 3-7): no surrogates, no longer forms than needed.
    """
    cdef const uint8_t* end = data + size
    cdef Py_ssize_t length = 0
    cdef uint8_t first, second
    while data < end:
        first = data[0]
        if first < 0x80:
            if end - data >= 8 and are_8_ascii(data):
                data += 8
                length += 8
            else:
                data += 1
                length += 1
            continue
        if first > largest[0]:
            largest[0] = first
        if end - data < 2 or data[1] & 0xC0 != 0x80:
            return -1
        second = data[1]
        if 0xC2 <= first < 0xE0:
            data += 2
        elif 0xE0 <= first < 0xF0:
            if (
                end - data < 3
                or data[2] & 0xC0 != 0x80
                or (first == 0xE0 and second < 0xA0)
                or (first == 0xED and second > 0x9F)
            ):
                return -1
            data += 3
        elif 0xF0 <= first <= 0xF4:
            if (
                end - data < 4
                or data[2] & 0xC0 != 0x80
                or data[3] & 0xC0 != 0x80
                or (first == 0xF0 and second < 0x90)
                or (first == 0xF4 and second > 0x8F)
            ):
                return -1
            data += 4
        else:
            return -1
        length += 1
    return length


ctypedef fused Character:
    uint8_t
    uint16_t
    uint32_t


cdef void _fill_text(Character* characters, const uint8_t* data, Py_ssize_t length) noexcept nogil:
    """Write the characters of bytes that are UTF-8."""
    cdef Character* end = characters + length
    cdef uint8_t first
    while characters < end:
        first = data[0]
        if first < 0x80:
            if Character is uint8_t and end - characters >= 8 and are_8_ascii(data):
                memcpy(characters, data, 8)
                data += 8
                characters += 8
                continue
            characters[0] = first
            data += 1
        elif first < 0xE0:
            characters[0] = <Character>((first & 0x1F) << 6 | data[1] & 0x3F)
            data += 2
        elif first < 0xF0:
            characters[0] = <Character>((first & 0x0F) << 12 | (data[1] & 0x3F) << 6 | data[2] & 0x3F)
            data += 3
        else:
            characters[0] = <Character>(
                (first & 0x07) << 18 | (data[1] & 0x3F) << 12 | (data[2] & 0x3F) << 6 | data[3] & 0x3F
            )
            data += 4
        characters += 1


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


cdef PyObject* _key(const uint8_t* name, Py_ssize_t size) noexcept:
    """Give a short binary that is the key of a map. Most keys come again, and have their hash already then."""
    cdef Remembered* place = _place(_keys, name, size)
    cdef PyObject* term = place.term
    if term != NULL and place.size == size and memcmp(place.name, name, size) == 0:
        Py_INCREF(term)
        return term
    term = _text(name, size)
    if term != NULL and Py_TYPE(term) == &PyUnicode_Type:
        _remember(place, name, size, term)
    return term


cdef PyObject* _atom(const uint8_t* name, Py_ssize_t size, bint is_latin1) except? NULL:
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


cdef PyObject* _small_integers(const uint8_t* data, Py_ssize_t size) noexcept:
    cdef PyObject* items = PyList_New(size)
    cdef Py_ssize_t i
    if items != NULL:
        for i in range(size):
            PyList_SET_ITEM(items, i, PyLong_FromLong(data[i]))
    return items


cdef PyObject* _integer(const uint8_t* data, Py_ssize_t size, bint is_negative) noexcept:
    """Give an integer of at most 7 bytes, the lowest first."""
    cdef uint64_t number = 0
    cdef Py_ssize_t i
    for i in range(size):
        number |= <uint64_t>data[i] << (8 * i)
    return PyLong_FromLongLong(-<long long>number if is_negative else <long long>number)


cdef PyObject* _rare(int tag, bytes buffer, Py_ssize_t* position) except? NULL:
    reader = READERS.get(tag)
    if reader is None:
        return NULL
    term, end = reader(buffer, position[0] + 1)
    position[0] = end
    return _shared(term)
