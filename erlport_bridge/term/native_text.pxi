# Conversion between text and UTF-8: part of native.pyx.

cdef inline bint are_8_ascii(const uint8_t* data) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, data, 8)
    return not word & <uint64_t>0x8080808080808080


cdef bint is_ascii(const uint8_t* data, Py_ssize_t size) noexcept nogil:
    cdef uint64_t words[4]
    cdef uint8_t rest = 0
    while size >= 32:
        memcpy(words, data, 32)
        if (words[0] | words[1] | words[2] | words[3]) & <uint64_t>0x8080808080808080:
            return False
        data += 32
        size -= 32
    while size >= 8:
        if not are_8_ascii(data):
            return False
        data += 8
        size -= 8
    while size:
        size -= 1
        rest |= data[size]
    return rest < 0x80


cdef PyObject* new_text(const uint8_t* data, Py_ssize_t size) noexcept:
    """Return a binary: as ``str`` if it is UTF-8, else as ``bytes``.

    Python's own decoder would make a second copy of the text while it reads, and a copy of the bytes for its exception.
    """
    cdef PyObject* text
    cdef Py_ssize_t length
    cdef uint8_t largest = 0
    if size < BYTES_PER_TURN:
        length = utf8_length(data, size, &largest)
    else:
        with nogil:
            length = utf8_length(data, size, &largest)
    if length == 1 and largest < 0x80:
        return PyUnicode_FromOrdinal(data[0])
    if length < 0:
        text = new_bytes(size)
        if text != NULL:
            copy_in_turn(<uint8_t*>PyBytes_AS_STRING(text), data, size)
    # The largest byte tells the width of the characters: 1, 2 or 4 bytes each.
    elif largest < 0x80:
        text = _new_characters(size, 0x7F, 1)
        if text != NULL and size:
            copy_in_turn(<uint8_t*>PyUnicode_DATA(text), data, size)
    elif largest < 0xC4:
        text = _new_characters(length, 0xFF, 1)
        if text != NULL:
            _fill_text(<uint8_t*>PyUnicode_DATA(text), data, length)
    elif largest < 0xF0:
        text = _new_characters(length, 0xFFFF, 2)
        if text != NULL:
            _fill_text(<uint16_t*>PyUnicode_DATA(text), data, length)
    else:
        text = _new_characters(length, 0x10FFFF, 4)
        if text != NULL:
            _fill_text(<uint32_t*>PyUnicode_DATA(text), data, length)
    return text


cdef inline PyObject* _new_characters(Py_ssize_t length, uint32_t largest, int width) noexcept:
    """Return a text to be written to, whose characters take ``width`` bytes each."""
    cdef PyObject* text = PyUnicode_New(length, largest)
    if length * width >= LARGE_MEMORY and text != NULL:
        use_large_pages(PyUnicode_DATA(text), length * width)
    return text


cdef Py_ssize_t utf8_length(const uint8_t* data, Py_ssize_t size, uint8_t* largest) noexcept nogil:
    """Return the number of characters of the bytes, and the largest byte unless all are ASCII; -1 if not UTF-8.

    Valid UTF-8 as in table 3-7 of the Unicode standard: no surrogates, no overlong forms.
    """
    cdef const uint8_t* end = data + size
    cdef Py_ssize_t length = 0
    cdef uint8_t first, second
    if is_ascii(data, size):
        return size
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


cdef Py_ssize_t store_utf8(uint8_t* place, PyObject* text, Py_ssize_t length) noexcept:
    """Write a text as UTF-8; return its size in bytes, or -1 if it has a lone surrogate."""
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
