# The class NamespaceReader: hits in a namespace; part of _core.pyx.

cdef enum:
    GENERATION_BYTES = 24  # of every generation that kvserve makes; others are read in Python

cdef struct Level:
    kv_key key  # of the generation's record
    kv_place place  # where it was found


cdef class NamespaceReader:
    """Reads the keys of a namespace through a reader.

    It keeps the prefix of the namespace's keys, and where the records are that hold the generations
    in it. A read first looks, by two loads for each, whether these records are still the same. So
    a `clear` by any process is seen by the next read, which then makes the prefix anew.

    What it cannot do in the table at once is left to the namespace: then its methods return
    ASK_WORKER, or None.
    """

    cdef Reader reader
    cdef tuple keys  # of the generations: bytes that the levels refer to
    cdef Level *levels
    cdef Py_ssize_t depth
    cdef bint fits_keys
    cdef uint64_t attachment  # of the reader, for which the prefix holds; 0: for none
    cdef bytes prefix
    cdef str text  # the same
    cdef kv_prefix_hash hashed

    def __cinit__(self, *_, **__):
        self.levels = NULL
        self.depth = 0
        self.attachment = 0

    def __dealloc__(self):
        PyMem_Free(self.levels)

    def _read_through(self, Reader reader not None, str names not None, list keys not None, *,
                      bint fits_keys=False):
        """Reads through this reader from now on.

        Args:
            names: what comes before the generations in the prefix.
            keys: of the generations' records, the outermost first.
            fits_keys: keys that do not fit are replaced, and left to the namespace.
        """
        cdef Py_ssize_t n
        self.fits_keys = fits_keys
        self.attachment = 0
        self.depth = 0
        PyMem_Free(self.levels)
        self.levels = <Level *>PyMem_Calloc(len(keys), sizeof(Level))
        if self.levels == NULL:
            raise MemoryError
        self.keys = tuple([key.encode() for key in keys])
        self.prefix = f"{names}:{'~' * GENERATION_BYTES * len(keys)}:".encode()
        self.depth = len(keys)
        for n in range(self.depth):
            as_key(NULL, self.keys[n], &self.levels[n].key)
        self.reader = reader

    cdef uint32_t current(self) except? 0:
        """How to read now, see `Reader.reading`, with a prefix that is up to date; 0: not here."""
        cdef Py_ssize_t n
        cdef bint full_notes = False
        cdef Reader reader = self.reader
        cdef uint32_t reading = reader.reading() if reader is not None else 0
        if reading == 0 or reader._hides_some:
            return 0
        if reading & KV_HITS_NEED_FRESHNESS:
            for n in range(self.depth):
                kv_locate(&reader.t, &self.levels[n].key)
                if reader.lapsed(reading, self.levels[n].key.shard):
                    return 0
        if self.attachment != reader.attachment:
            if not self.renew():
                return 0
        for n in range(self.depth):
            if not kv_place_holds(&self.levels[n].place):
                if not self.renew():
                    return 0
                break
        for n in range(self.depth):
            full_notes |= kv_touch_place(&reader.t, &self.levels[n].place)
        if full_notes:
            reader._on_full_notes()
            return self.current()
        return reading

    cdef bint renew(self) except -1:
        """Makes the prefix of the generations in the table. False: one is not there, or odd."""
        cdef Py_ssize_t n, at
        cdef kv_view view
        cdef Level *level
        cdef Reader reader = self.reader
        cdef uint64_t attachment = reader.attachment
        cdef bytes prefix = PyBytes_FromStringAndSize(
            PyBytes_AS_STRING(self.prefix), PyBytes_GET_SIZE(self.prefix))
        cdef Py_ssize_t end = PyBytes_GET_SIZE(prefix) - 1
        cdef char *generation = PyBytes_AS_STRING(prefix) + end - self.depth * GENERATION_BYTES
        self.attachment = 0
        for n in range(self.depth):
            level = &self.levels[n]
            kv_locate(&reader.t, &level.key)
            if kv_find(&reader.t, &level.key, &view) != KV_DONE:
                return False
            if view.codec != KV_CODEC_TEXT or view.value_bytes != GENERATION_BYTES:
                return False
            if view.flags & (KV_FLAG_EXPIRY | KV_FLAG_TAGGED):
                return False
            memcpy(generation, view.value, GENERATION_BYTES)
            for at in range(GENERATION_BYTES):
                if generation[at] & 0x80:
                    return False
            if not kv_note_place(&reader.t, &level.key, &view, &level.place):
                return False
            if not kv_view_intact(&view) or not kv_place_holds(&level.place):
                return False
            generation += GENERATION_BYTES
        kv_hash_prefix(&reader.t, <const uint8_t *>PyBytes_AS_STRING(prefix),
                       <uint32_t>PyBytes_GET_SIZE(prefix), &self.hashed)
        self.text = PyUnicode_DecodeUTF8(PyBytes_AS_STRING(prefix), end + 1, NULL)
        self.prefix = prefix
        self.attachment = attachment
        return True

    cdef inline bint fits(self, key) except -1:
        """Whether a key is surely not one that is replaced."""
        cdef kv_key own
        cdef Py_ssize_t room = KV_KEY_BYTES_MAX - 1 - PyBytes_GET_SIZE(self.prefix)
        if not self.fits_keys:
            return True
        if PyUnicode_CheckExact(key) and PyUnicode_IS_ASCII(key):
            return PyUnicode_GET_LENGTH(key) < room
        if PyBytes_CheckExact(key):
            return PyBytes_GET_SIZE(key) < room
        try:
            as_key(NULL, key, &own)
        except InvalidKey:  # perhaps it can be replaced
            return False
        return own.length < room

    cdef inline bint locate(self, key, uint8_t *buffer, kv_key *k) except -1:
        """Makes the full key in a buffer, and finds its shard. False: it is too long."""
        cdef kv_key own
        cdef uint32_t before = <uint32_t>PyBytes_GET_SIZE(self.prefix)
        as_key(NULL, key, &own)
        if before + own.length > KV_KEY_BYTES_MAX:
            return False
        memcpy(buffer, PyBytes_AS_STRING(self.prefix), before)
        memcpy(buffer + before, own.bytes, own.length)
        k.bytes = buffer
        k.length = before + own.length
        k.flags = own.flags
        kv_locate_behind(&self.reader.t, &self.hashed, k)
        return True

    def get(self, key, default=None):
        """See `Client.get`."""
        cdef kv_key k
        cdef uint8_t buffer[KV_KEY_BYTES_MAX]
        cdef object value = _ask_worker
        cdef uint32_t reading = self.current()
        if reading != 0 and self.fits(key) and self.locate(key, buffer, &k):
            try:
                value = self.get_located(reading, &k, key, default)
            except UnreadableValue:
                value = _ask_worker  # what that means is the client's to say
        return self._get_by_client(key, default) if value is _ask_worker else value

    def get_here(self, key, default=None):
        """See `Client.get_here`."""
        cdef kv_key k
        cdef uint8_t buffer[KV_KEY_BYTES_MAX]
        cdef uint32_t reading = self.current()
        if reading != 0 and self.fits(key) and self.locate(key, buffer, &k):
            try:
                return self.get_located(reading, &k, key, default)
            except UnreadableValue:
                pass  # what that means is the client's to say
        return self._get_here_by_client(key, default)

    cdef inline object get_located(self, uint32_t reading, const kv_key *k, key, default):
        """What a `get` of this key returns, or `_ask_worker`."""
        # As in Reader.get: a function that both call would not be inlined in either.
        cdef kv_view view
        cdef object value
        cdef Reader reader = self.reader
        if reader.lapsed(reading, k.shard):
            return _ask_worker
        value = reader._copy(k, &view)
        if value is _miss:
            if reading & KV_MISSES_ASK_WORKER:
                return _ask_worker
            kv_count_read(&reader.t, False)
            return default
        if value is _ask_worker:
            return _ask_worker
        reader._count_hit(&view)
        return reader.decode(view.codec, value, key) if is_packed(&view) else value

    def _get_here_by_client(self, key, default):
        """What `get_here` returns where the prefix is not at hand. For subclasses."""
        return _ask_worker

    def _get_by_client(self, key, default):
        """What `get` returns where it must ask a worker. For subclasses."""
        return _ask_worker

    def _prefix_here(self):
        """The prefix of the keys now, or None."""
        return self.text if self.current() else None

    def _full_key_here(self, key):
        """The key with the prefix in front, or None."""
        cdef kv_key unused
        if self.current() == 0 or not self.fits(key):
            return None
        as_key(NULL, key, &unused)
        return self.text + <str>key if unused.flags else self.prefix + <bytes>key

    def _get_many_here(self, keys):
        """The hits among many keys, and a dict from full keys to ask a worker for to these keys.
        None: ask for all."""
        cdef kv_key unused
        cdef list full = [], rest = []
        cdef tuple own
        cdef dict found, keys_of
        cdef str text
        cdef bytes prefix
        cdef object key
        if self.current() == 0:
            return None
        text, prefix = self.text, self.prefix
        own = tuple(keys)
        for key in own:
            if not self.fits(key):
                return None
            as_key(NULL, key, &unused)
            full.append(text + <str>key if unused.flags else prefix + <bytes>key)
        found = self.reader._get_some_here(full, rest, own)
        if not rest:
            return found, {}
        keys_of = dict(zip(full, own))
        return found, {key: keys_of[key] for key in rest}
