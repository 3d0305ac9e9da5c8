# From a value to msgpack; part of _values.pyx.

cdef struct Level:
    # A container whose items are being packed. Its items are a tuple of ours, so that another
    # thread, or a time zone's own code, may change the container meanwhile.
    Kind kind
    Py_ssize_t position  # of the next item; a dict's keys have even positions
    Py_ssize_t begin  # where the head of a tuple will be
    Py_ssize_t key  # where the last key of a dict begins
    int key_depth  # how many tuples deep in a key; 0: in no key


def pack(value, bint exact=False):
    """A value as msgpack.

    Args:
        exact: refuse what would come back as something that is only like it: a bytearray, a
            memoryview, and a datetime that is not in UTC.

    Raises:
        InvalidValue: it is, or holds, what is not carried; the message says where, and which type.
        ValueTooLarge: it is longer than any instance takes.
    """
    cdef Packer packer = Packer()
    packer.exact = exact
    return packer.run(value)


@cython.final
cdef class Packer:
    """What was packed so far, and the containers that are open."""

    cdef uint8_t *packed
    cdef Py_ssize_t size
    cdef Py_ssize_t room
    cdef Level *levels
    cdef int depth
    cdef int levels_room
    cdef bint exact
    cdef list items  # of each level
    cdef dict moments  # of a level: its keys that may be one instant though they differ

    def __cinit__(self):
        self.items = []
        self.moments = {}

    def __dealloc__(self):
        PyMem_Free(self.packed)
        PyMem_Free(self.levels)

    cdef bytes run(self, object item):
        cdef Level *level
        cdef tuple items
        while True:
            self.put(item)
            while self.depth:
                level = &self.levels[self.depth - 1]
                items = <tuple>self.items[self.depth - 1]
                if level.position < PyTuple_GET_SIZE(items):
                    break
                self.close()
            else:
                return PyBytes_FromStringAndSize(<const char *>self.packed, self.size)
            if level.kind == DICT:
                if level.position & 1:
                    self.check_key(items[level.position - 1], level.key)
                level.key = self.size
            item = <object>PyTuple_GET_ITEM(items, level.position)
            level.position += 1

    cdef int put(self, object item) except -1:
        """Packs a plain value, or begins a container."""
        cdef Py_ssize_t size
        cdef const char *text
        if PyUnicode_CheckExact(item):
            if not PyUnicode_IS_ASCII(item):  # else it would keep a copy for as long as it lives
                try:
                    item = PyUnicode_AsUTF8String(item)
                except UnicodeEncodeError as error:
                    raise self.refused(f"cannot be encoded as UTF-8: {error.reason}") from None
                self.put_head(STR_8, PyBytes_GET_SIZE(item))
                self.put_bytes(PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
            else:
                text = PyUnicode_AsUTF8AndSize(item, &size)
                self.put_head(STR_8, size)
                self.put_bytes(text, size)
        elif PyLong_CheckExact(item):
            self.put_int(item)
        elif PyFloat_CheckExact(item):
            self.put_float(PyFloat_AS_DOUBLE(item))
        elif item is None:
            self.put_byte(NIL)
        elif item is True:
            self.put_byte(TRUE)
        elif item is False:
            self.put_byte(FALSE)
        elif PyBytes_CheckExact(item):
            self.put_head(BIN_8, PyBytes_GET_SIZE(item))
            self.put_bytes(PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
        elif PyList_CheckExact(item):
            self.open(LIST, PyList_AsTuple(item))
        elif PyTuple_CheckExact(item):
            self.open(TUPLE, item)
        elif PyDict_CheckExact(item):
            self.open(DICT, flat(item))
        elif type(item) is DATETIME:
            self.put_moment(item)
        elif type(item) is bytearray or (type(item) is memoryview and not self.key_depth()):
            if self.exact:
                raise self.refused(_not_exact(item))
            try:
                if type(item) is memoryview and not is_plain(item):
                    raise self.refused(
                        f"is a memoryview of format {item.format!r} and shape {item.shape}, which "
                        "is carried only alone: store its bytes"
                    )
                item = bytes(item)
            except (ValueError, BufferError) as error:  # a memoryview that was released
                if isinstance(error, InvalidValue):
                    raise
                raise self.refused(f"cannot be read: {error}") from None
            self.put(item)
        else:
            raise self.refused(_not_carried(item))
        return 0

    cdef int key_depth(self):
        """How many tuples deep in a key the next item is, the key itself counted; 0: in none."""
        cdef Level *level
        if self.depth == 0:
            return 0
        level = &self.levels[self.depth - 1]
        if level.key_depth:
            return level.key_depth + 1
        return 1 if level.kind == DICT and level.position & 1 else 0

    cdef int open(self, Kind kind, tuple items) except -1:
        cdef Py_ssize_t count = PyTuple_GET_SIZE(items)
        cdef int key_depth = self.key_depth()
        cdef Level *level
        if self.depth == DEPTH_MAX:
            raise InvalidValue(
                f"a value that is nested more than {DEPTH_MAX} deep, or holds itself"
            )
        if key_depth > KEY_DEPTH_MAX:
            raise self.refused(f"has tuples that are nested more than {KEY_DEPTH_MAX} deep")
        if self.depth == self.levels_room:
            level = <Level *>PyMem_Realloc(
                self.levels, (2 * self.levels_room + 8) * sizeof(Level)
            )
            if level is NULL:
                raise MemoryError
            self.levels = level
            self.levels_room = 2 * self.levels_room + 8
        level = &self.levels[self.depth]
        level.kind = kind
        level.position = 0
        level.begin = level.key = self.size
        level.key_depth = key_depth
        if kind == TUPLE:
            self.reserve(EXT_HEAD_BYTES)
            self.size += EXT_HEAD_BYTES
        if kind == DICT:
            self.put_count(0x80, MAP_16, count // 2)
        else:
            self.put_count(0x90, ARRAY_16, count)
        self.items.append(items)
        self.depth += 1
        return 0

    cdef int close(self) except -1:
        """Ends the innermost container. A tuple's head depends on how long it has become."""
        cdef Level *level = &self.levels[self.depth - 1]
        cdef Py_ssize_t body = level.begin + EXT_HEAD_BYTES
        cdef Py_ssize_t size = self.size - body
        cdef Py_ssize_t end
        if level.kind == TUPLE:
            self.size = level.begin
            self.put_extension_head(EXT_TUPLE, size)
            end = self.size
            if end != body:
                memmove(self.packed + end, self.packed + body, <size_t>size)
            self.size = end + size
        elif level.kind == DICT and level.position:
            self.moments.pop(self.depth, None)
        self.items.pop()
        self.depth -= 1
        return 0

    cdef int check_key(self, object key, Py_ssize_t begin) except -1:
        """Two datetimes may differ by their fold and yet be one instant."""
        if type(key) is not DATETIME and not PyTuple_CheckExact(key):
            return 0
        packed = PyBytes_FromStringAndSize(<const char *>self.packed + begin, self.size - begin)
        seen = self.moments.setdefault(self.depth, set())
        if packed in seen:
            raise self.refused("is the same instant as another key, which it does not equal")
        seen.add(packed)
        return 0

    cdef int put_moment(self, object moment) except -1:
        """A datetime as msgpack's timestamp, in the shortest of its three forms."""
        cdef int64_t seconds
        cdef uint64_t nanoseconds
        try:
            if moment.utcoffset() is None:
                raise self.refused("has no time zone; give it one, such as datetime.UTC")
            if self.exact and (moment.tzinfo is not UTC or moment.fold):
                raise self.refused(_not_exact(moment))
            since = moment.astimezone(UTC) - EPOCH
        except InvalidValue:
            raise
        except Exception as error:  # whatever a zone's own code raises
            raise self.refused(f"cannot be expressed in UTC: {error}") from None
        seconds = since.days * DAY_SECONDS + since.seconds
        nanoseconds = since.microseconds * 1000
        if seconds >> 34 or seconds < 0:
            self.put_extension_head(EXT_TIMESTAMP, 12)
            self.put_number(nanoseconds, 4)
            self.put_number(<uint64_t>seconds, 8)
        elif nanoseconds or seconds >> 32:
            self.put_extension_head(EXT_TIMESTAMP, 8)
            self.put_number(nanoseconds << 34 | <uint64_t>seconds, 8)
        else:
            self.put_extension_head(EXT_TIMESTAMP, 4)
            self.put_number(<uint64_t>seconds, 4)
        return 0

    cdef int put_int(self, object item) except -1:
        cdef int overflow = 0
        cdef int64_t number = PyLong_AsLongLongAndOverflow(item, &overflow)
        if overflow:
            if overflow < 0 or item >> 64:
                raise self.refused("is out of range: -2**63 to 2**64 - 1 are carried; store a str")
            self.put_byte(UINT_8 + 3)
            return self.put_number(<uint64_t>item, 8)
        if -32 <= number < 128:
            return self.put_byte(<uint8_t>number)
        if number >= 0:
            if number < 1 << 8:
                return self.put_sized(UINT_8, 0, <uint64_t>number)
            if number < 1 << 16:
                return self.put_sized(UINT_8, 1, <uint64_t>number)
            return self.put_sized(UINT_8, 2 if number < <int64_t>1 << 32 else 3, <uint64_t>number)
        if number >= -(1 << 7):
            return self.put_sized(INT_8, 0, <uint64_t>number)
        if number >= -(1 << 15):
            return self.put_sized(INT_8, 1, <uint64_t>number)
        return self.put_sized(INT_8, 2 if number >= -(<int64_t>1 << 31) else 3, <uint64_t>number)

    cdef int put_float(self, double number) except -1:
        cdef uint64_t bits
        memcpy(&bits, &number, 8)
        self.put_byte(FLOAT_64)
        return self.put_number(bits, 8)

    cdef int put_head(self, int first, Py_ssize_t size) except -1:
        """The head of a str or of bytes, whose forms of 8, 16 and 32 bits have adjacent codes."""
        if first == STR_8 and size < 32:
            return self.put_byte(0xA0 | <uint8_t>size)
        if size > BYTES_MAX:
            raise self.too_large()
        return self.put_sized(
            first, 0 if size < 1 << 8 else 1 if size < 1 << 16 else 2, <uint64_t>size
        )

    cdef int put_count(self, int fixed, int first, Py_ssize_t count) except -1:
        if count < 16:
            return self.put_byte(<uint8_t>(fixed | count))
        if count > BYTES_MAX:
            raise self.too_large()
        self.put_byte(<uint8_t>(first if count < 1 << 16 else first + 1))
        return self.put_number(<uint64_t>count, 2 if count < 1 << 16 else 4)

    cdef int put_extension_head(self, int code, Py_ssize_t size) except -1:
        if size in (1, 2, 4, 8, 16):
            self.put_byte(<uint8_t>(
                FIXEXT_1 + (0 if size == 1 else 1 if size == 2 else 2 if size == 4
                            else 3 if size == 8 else 4)
            ))
        else:
            self.put_sized(
                EXT_8, 0 if size < 1 << 8 else 1 if size < 1 << 16 else 2, <uint64_t>size
            )
        return self.put_byte(<uint8_t>code)

    cdef int put_sized(self, int first, int step, uint64_t number) except -1:
        """A code, and a number of 1, 2, 4 or 8 bytes; the codes of these are adjacent."""
        self.put_byte(<uint8_t>(first + step))
        return self.put_number(number, 1 << step)

    cdef int put_number(self, uint64_t number, int size) except -1:
        """The last bytes of a number, in network order."""
        cdef int n
        self.reserve(size)
        for n in range(size):
            self.packed[self.size + n] = <uint8_t>(number >> (8 * (size - 1 - n)))
        self.size += size
        return 0

    cdef inline int put_byte(self, int code) except -1:
        self.reserve(1)
        self.packed[self.size] = <uint8_t>code
        self.size += 1
        return 0

    cdef int put_bytes(self, const char *source, Py_ssize_t size) except -1:
        self.reserve(size)
        memcpy(self.packed + self.size, source, <size_t>size)
        self.size += size
        return 0

    cdef inline int reserve(self, Py_ssize_t more) except -1:
        if self.size + more > self.room:
            self.grow(more)
        return 0

    cdef int grow(self, Py_ssize_t more) except -1:
        """A list that holds another one twice, which holds a third twice, and so on, has no end."""
        cdef Py_ssize_t room = max(2 * self.room, self.size + more, 128)
        cdef uint8_t *packed
        if self.size + more > BYTES_MAX + EXT_HEAD_BYTES * <Py_ssize_t>DEPTH_MAX:
            raise self.too_large()
        packed = <uint8_t *>PyMem_Realloc(self.packed, <size_t>room)
        if packed is NULL:
            raise MemoryError
        self.packed = packed
        self.room = room
        return 0

    cdef object too_large(self):
        return ValueTooLarge(f"a value of more than {BYTES_MAX} bytes, the most of any instance")

    cdef object refused(self, str why):
        return InvalidValue(f"{self.where()} {why}")

    cdef str where(self):
        """The path to the item that is being packed, from the value inwards."""
        cdef str path = "this value"
        cdef list steps = []
        cdef int n
        cdef Py_ssize_t position
        for n in range(self.depth):
            items = self.items[n]
            position = self.levels[n].position - 1
            if self.levels[n].kind != DICT:
                steps.append(f"[{position}]")
            elif position & 1:
                steps.append(f"[{_shown(items[position - 1])}]")
            else:
                path = "a key of this value"
                break
        if len(steps) > 8:
            steps[4:-4] = [" ... "]
        return path + "".join(steps)


cdef tuple flat(dict items):
    """The keys and values of a dict, by turns. Nothing else runs while they are taken."""
    cdef Py_ssize_t count, place = 0, n = 0
    cdef PyObject *key
    cdef PyObject *value
    cdef tuple taken
    while True:
        count = PyDict_Size(items)
        taken = PyTuple_New(2 * count)
        if PyDict_Size(items) == count:  # else making the tuple ran a finalizer
            break
    while PyDict_Next(items, &place, &key, &value):
        Py_INCREF(<object>key)
        PyTuple_SET_ITEM(taken, n, <object>key)
        Py_INCREF(<object>value)
        PyTuple_SET_ITEM(taken, n + 1, <object>value)
        n += 2
    return taken
