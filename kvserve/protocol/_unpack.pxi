# From msgpack to a value, and whether there is one; part of _values.pyx.

cdef struct Frame:
    # A container whose items are being read.
    Kind kind
    Py_ssize_t left  # items to come; a dict's keys come when that is even
    Py_ssize_t count  # of a list or tuple with room for all from the start; else 0
    const uint8_t *end  # of a tuple
    int key_depth  # as in Level
    PyObject *container  # ours, unless nothing is built: then NULL
    PyObject *key  # of a dict, while its value is to come; ours


def unpack(bytes payload not None):
    """The value for which `pack` returned these bytes.

    Raises:
        ValueError: they are no such value.
    """
    cdef Unpacker unpacker = Unpacker()
    return unpacker.run(payload, True)


def is_value(bytes payload not None):
    """Whether `unpack` returns a value for these bytes. Makes none, so that memory has a bound."""
    cdef Unpacker unpacker = Unpacker()
    try:
        unpacker.run(payload, False)
    except ValueError:
        return False
    return True


@cython.final
cdef class Unpacker:
    """The reading position, and the containers that are open."""

    cdef const uint8_t *here
    cdef const uint8_t *end
    cdef Frame *frames
    cdef int depth
    cdef int frames_room
    cdef bint building

    def __dealloc__(self):
        cdef int n
        for n in range(self.depth):
            Py_XDECREF(self.frames[n].container)
            Py_XDECREF(self.frames[n].key)
        PyMem_Free(self.frames)

    cdef object run(self, bytes payload, bint building):
        cdef Frame *frame = NULL
        cdef object item
        self.building = building
        self.here = <const uint8_t *>PyBytes_AS_STRING(payload)
        self.end = self.here + PyBytes_GET_SIZE(payload)
        while True:
            if self.here < self.end and self.here[0] < 0x80:  # small numbers are common
                item = <long>self.here[0] if building else None
                self.here += 1
            else:
                item = self.read()
                if item is _begun:
                    frame = &self.frames[self.depth - 1]
                    if frame.left:
                        continue
                    item = self.close()
                    frame = &self.frames[self.depth - 1] if self.depth else NULL
            while frame is not NULL:
                frame.left -= 1
                if building:
                    put_into(frame, item)
                if frame.left:
                    break
                item = self.close()
                frame = &self.frames[self.depth - 1] if self.depth else NULL
            else:
                if self.here != self.end:
                    raise ValueError("something stands behind the value")
                return item

    cdef object close(self):
        """Ends the innermost container; returns it."""
        cdef Frame *frame = &self.frames[self.depth - 1]
        if frame.kind == TUPLE and self.here != frame.end:
            raise ValueError("a tuple that is not as long as it says")
        self.depth -= 1
        if frame.container is NULL:
            return None
        item = <object>frame.container
        Py_XDECREF(frame.container)
        return PyList_AsTuple(item) if frame.kind == TUPLE and PyList_CheckExact(item) else item

    cdef int key_depth(self):
        """As in Packer, for the item that comes next."""
        cdef Frame *frame
        if self.depth == 0:
            return 0
        frame = &self.frames[self.depth - 1]
        if frame.key_depth:
            return frame.key_depth + 1
        return 1 if frame.kind == DICT and not frame.left & 1 else 0

    cdef object open(self, Kind kind, Py_ssize_t items, const uint8_t *end):
        cdef int key_depth = self.key_depth()
        cdef Frame *frame
        if self.depth == DEPTH_MAX:
            raise ValueError("nested too deep")
        if key_depth and (kind != TUPLE or key_depth > KEY_DEPTH_MAX):
            raise ValueError("a key that cannot be one")
        if items > self.end - self.here:
            raise ValueError("cut short")
        if self.depth == self.frames_room:
            frame = <Frame *>PyMem_Realloc(
                self.frames, (2 * self.frames_room + 8) * sizeof(Frame)
            )
            if frame is NULL:
                raise MemoryError
            self.frames = frame
            self.frames_room = 2 * self.frames_room + 8
        frame = &self.frames[self.depth]
        frame.kind = kind
        frame.left = items
        frame.count = 0
        frame.end = end
        frame.key_depth = key_depth
        frame.container = frame.key = NULL
        if self.building:
            if kind == DICT:
                container = {}
            elif items > ROOM_MAX:
                container = []
            else:
                container = PyTuple_New(items) if kind == TUPLE else PyList_New(items)
                frame.count = items
            Py_INCREF(container)
            frame.container = <PyObject *>container
        self.depth += 1
        return _begun

    cdef object read(self):
        """The next item, or `_begun` if that is a container, which is open now."""
        cdef int code = self.take(1)[0]
        if not self.building and self.skip(code):
            return None
        if code < 0x80:
            return code
        if code < 0x90:
            return self.open(DICT, 2 * (code & 15), NULL)
        if code < 0xA0:
            return self.open(LIST, code & 15, NULL)
        if code < 0xC0:
            return self.text(code & 31)
        if code >= 0xE0:
            return code - 256
        if code == NIL:
            return None
        if code == FALSE or code == TRUE:
            return code == TRUE
        if BIN_8 <= code < EXT_8:
            return self.raw(<Py_ssize_t>self.number(1 << (code - BIN_8)))
        if EXT_8 <= code < FLOAT_32:
            return self.extension(<Py_ssize_t>self.number(1 << (code - EXT_8)))
        if code == FLOAT_32 or code == FLOAT_64:
            return self.floating(code)
        if UINT_8 <= code < INT_8:
            return self.number(1 << (code - UINT_8))
        if INT_8 <= code < FIXEXT_1:
            return self.signed(code - INT_8)
        if FIXEXT_1 <= code < STR_8:
            return self.extension(1 << (code - FIXEXT_1))
        if STR_8 <= code < ARRAY_16:
            return self.text(<Py_ssize_t>self.number(1 << (code - STR_8)))
        if ARRAY_16 <= code < MAP_16:
            return self.open(LIST, <Py_ssize_t>self.number(2 << (code - ARRAY_16)), NULL)
        if MAP_16 <= code < 0xE0:
            return self.open(DICT, 2 * <Py_ssize_t>self.number(2 << (code - MAP_16)), NULL)
        raise ValueError("a byte that msgpack does not use")

    cdef bint skip(self, int code) except -1:
        """Skips a number, as no object is needed; returns whether it was one."""
        if code >= 0xE0:
            return True
        if FLOAT_32 <= code < FIXEXT_1:
            self.take(4 if code == FLOAT_32 else 8 if code == FLOAT_64
                      else 1 << (code - (UINT_8 if code < INT_8 else INT_8)))
            return True
        return False

    cdef inline const uint8_t *take(self, Py_ssize_t size) except NULL:
        """The next bytes."""
        cdef const uint8_t *taken = self.here
        if size > self.end - taken:
            raise ValueError("cut short")
        self.here += size
        return taken

    cdef uint64_t number(self, int size) except? 0:
        """A number in network order."""
        cdef const uint8_t *source = self.take(size)
        cdef uint64_t found = 0
        cdef int n
        for n in range(size):
            found = found << 8 | source[n]
        return found

    cdef object signed(self, int step):
        cdef uint64_t found = self.number(1 << step)
        if step == 0:
            return <int8_t>found
        if step == 1:
            return <int16_t>found
        return <int32_t>found if step == 2 else <int64_t>found

    cdef object floating(self, int code):
        cdef float short_number
        cdef double number
        cdef uint32_t short_bits
        cdef uint64_t bits
        if code == FLOAT_64:
            bits = self.number(8)
            memcpy(&number, &bits, 8)
            return number
        short_bits = <uint32_t>self.number(4)
        memcpy(&short_number, &short_bits, 4)
        return short_number

    cdef object text(self, Py_ssize_t size):
        cdef const uint8_t *source = self.here
        if size:
            source = self.take(size)
        if not self.building and is_ascii(source, size):
            return None
        return PyUnicode_DecodeUTF8(<const char *>source, size, NULL)

    cdef object raw(self, Py_ssize_t size):
        cdef const uint8_t *source = self.here
        if size:
            source = self.take(size)
        return PyBytes_FromStringAndSize(<const char *>source, size) if self.building else None

    cdef object extension(self, Py_ssize_t size):
        """A tuple or a datetime. A later kvserve may have more, which must not look like others."""
        cdef int kind = <int8_t>self.number(1)
        cdef const uint8_t *end
        cdef int code
        if size > self.end - self.here:
            raise ValueError("cut short")
        end = self.here + size
        if kind == EXT_TIMESTAMP:
            return self.moment(size)
        if kind != EXT_TUPLE or not size:
            raise ValueError(f"an extension of kind {kind}")
        code = <int>self.number(1)
        if 0x90 <= code < 0xA0:
            return self.open(TUPLE, code & 15, end)
        if not ARRAY_16 <= code < MAP_16:
            raise ValueError("a tuple that is no array")
        return self.open(TUPLE, <Py_ssize_t>self.number(2 << (code - ARRAY_16)), end)

    cdef object moment(self, Py_ssize_t size):
        cdef uint64_t nanoseconds = 0
        cdef int64_t seconds
        cdef uint64_t both
        if size == 4:
            seconds = <int64_t>self.number(4)
        elif size == 8:
            both = self.number(8)
            nanoseconds = both >> 34
            seconds = <int64_t>(both & ((<uint64_t>1 << 34) - 1))
        elif size == 12:
            nanoseconds = self.number(4)
            seconds = <int64_t>self.number(8)
        else:
            raise ValueError("a timestamp of another length")
        if nanoseconds >= 1_000_000_000 or not SECONDS_FIRST <= seconds <= SECONDS_LAST:
            raise ValueError("a timestamp that no datetime has")
        return EPOCH + DELTA(0, seconds, <int64_t>(nanoseconds // 1000)) if self.building else None


cdef inline int put_into(Frame *frame, object item) except -1:
    """Puts an item into the container that it belongs to."""
    if frame.kind == DICT:
        if frame.left & 1:
            Py_INCREF(item)
            frame.key = <PyObject *>item
            return 0
        PyDict_SetItem(<object>frame.container, <object>frame.key, item)
        Py_CLEAR(frame.key)
    elif not frame.count:
        PyList_Append(<object>frame.container, item)
    else:
        Py_INCREF(item)  # which is stolen
        if frame.kind == LIST:
            PyList_SET_ITEM(<object>frame.container, frame.count - frame.left - 1, item)
        else:
            PyTuple_SET_ITEM(<object>frame.container, frame.count - frame.left - 1, item)
    return 0


cdef inline bint is_ascii(const uint8_t *source, Py_ssize_t size) noexcept:
    cdef uint64_t eight
    cdef Py_ssize_t n = 0
    while n + 8 <= size:
        memcpy(&eight, source + n, 8)
        if eight & 0x8080808080808080u:
            return False
        n += 8
    while n < size:
        if source[n] & 0x80:
            return False
        n += 1
    return True


cdef object _begun = object()
