# The class TrustedWriter: from a Python value to a record in one call; part of _core.pyx.

cdef uint32_t COMPRESSED = codec.COMPRESSED
cdef double TTL_SECONDS_MAX = TTL_MS_MAX / 1000.0


cdef inline Py_ssize_t plain_length(const kv_value *v, object holder) except -1:
    """How long a payload is without compression, which is what limits are about."""
    return v.length if v.codec < COMPRESSED else <Py_ssize_t>codec.plain_bytes(v.codec, holder)


cdef class TrustedWriter(Reader):
    """The methods of a client that change one key, done in the table at once.

    Common cases go straight through here. Rare ones, and what does not concern the table, are left
    to methods of the client (kvserve/client/blocking/direct.py): `_join_writers` gets a Writer,
    `_life_ms` reads a ttl, `_check_counter` and `_check_version` refuse what is none,
    `_check_kept` a ttl beside `keep_ttl`.
    """

    cdef Writer writer
    cdef Py_buffer page
    cdef const uint64_t *version_now  # in the page
    cdef uint64_t version
    cdef uint64_t default_ttl_ms
    cdef Py_ssize_t value_bytes_max
    cdef object encode  # to a codec and a payload
    cdef Py_ssize_t as_is_bytes_max  # of bytes and ASCII text that need no `encode`
    cdef bint has_rules  # of the client: what is refused here, they may take

    def __dealloc__(self):
        PyBuffer_Release(&self.page)

    def _use_values(self, encode, decode, as_is_bytes_max):
        """As of a Reader; and makes payloads of values by `encode`."""
        Reader._use_values(self, encode, decode, as_is_bytes_max)
        self.encode = encode
        self.as_is_bytes_max = as_is_bytes_max

    def _use_writer(self, Writer writer not None, page, Py_ssize_t version_at, uint64_t version,
                   uint64_t default_ttl_ms, Py_ssize_t value_bytes_max):
        """Writes through this writer from now on, as these settings say.

        Args:
            writer: one that borrows from the process's slot.
            page: shared memory; `_join_writers` is called when the 8 bytes at `version_at` are not
                `version` any more.
            default_ttl_ms, value_bytes_max: what is in force with that version.
        """
        cdef Py_buffer view
        PyObject_GetBuffer(page, &view, PyBUF_SIMPLE)
        self.version_now = <const uint64_t *>(<const uint8_t *>view.buf + version_at)
        self.page, view = view, self.page
        self.version = version
        self.default_ttl_ms = default_ttl_ms
        self.value_bytes_max = value_bytes_max
        self.writer = writer
        PyBuffer_Release(&view)  # last: unmapping it lets other threads in

    def _drop_writer(self):
        """Writes no more, until `_join_writers` gets another writer."""
        self.writer = None

    cdef inline Writer ready(self):
        if self.writer is None or not self.writer.holds_lease() or (
                self.version_now[0] != self.version):
            self._join_writers()
            if self.writer is None:  # another thread ran, and dropped it
                raise ClientClosed("this client was closed")
        return self.writer

    cdef inline uint64_t life_ms(self, ttl) except? 1:
        """Milliseconds to live, 0 for ever. Raises InvalidTTL."""
        cdef double seconds
        cdef int overflow = 0
        if ttl is None:
            return self.default_ttl_ms
        if PyFloat_CheckExact(ttl):
            seconds = PyFloat_AS_DOUBLE(ttl)
        elif PyLong_CheckExact(ttl):
            seconds = <double>PyLong_AsLongLongAndOverflow(ttl, &overflow)
        else:
            return self._life_ms(ttl)
        if 0 < seconds < TTL_SECONDS_MAX and not overflow:
            return max(<uint64_t>1, <uint64_t>rint(seconds * 1000))
        return self._life_ms(ttl)

    cdef object as_value(self, value, kv_value *v, int64_t *cell):
        """Borrows the payload of a value, from the object that this returns, or from the cell.

        It is not compared with the largest value that is allowed now, see `too_large`.

        Raises:
            InvalidValue, ValueTooLarge.
        """
        cdef Py_ssize_t size
        cdef int overflow = 0
        cdef object holder = value
        if PyBytes_CheckExact(value) and PyBytes_GET_SIZE(value) <= self.as_is_bytes_max:
            v.codec = KV_CODEC_BYTES
        elif PyUnicode_CheckExact(value) and PyUnicode_IS_ASCII(value) and (
                PyUnicode_GET_LENGTH(value) <= self.as_is_bytes_max):
            # Any other text would keep a copy in UTF-8 for as long as it lives.
            v.codec = KV_CODEC_TEXT
            v.bytes = <const uint8_t *>PyUnicode_AsUTF8AndSize(value, &size)
        else:
            if PyLong_CheckExact(value):
                cell[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
                if not overflow:
                    v.codec, v.length, v.bytes = KV_CODEC_COUNTER, 8, <const uint8_t *>cell
                    return value
            v.codec, holder = self.encode(value)
        if v.codec != KV_CODEC_TEXT or holder is not value:
            v.bytes = <const uint8_t *>PyBytes_AS_STRING(holder)
            size = PyBytes_GET_SIZE(holder)
        if size > 0xFFFFFFFF:
            raise self.too_large(size)
        v.length = <uint32_t>size
        return holder

    cdef object too_large(self, size):
        return ValueTooLarge(
            f"a value of {size} bytes; at most {self.value_bytes_max} are allowed now"
        )

    cdef uint64_t store(self, key, value, ttl, kv_condition condition, uint64_t expected,
                        bint keep_ttl=False) except? 0:
        cdef kv_key k
        cdef kv_value v
        cdef int64_t cell
        # First: an application's codec runs in it, which may do anything, even close this client.
        cdef object holder = self.as_value(value, &v, &cell)
        cdef Writer writer = self.ready()
        cdef uint64_t ttl_ms
        if plain_length(&v, holder) > self.value_bytes_max:
            raise self.too_large(plain_length(&v, holder))
        ttl_ms = self.life_ms(ttl)
        if keep_ttl:
            self._check_kept(ttl)
            ttl_ms = LIFE_MS_KEPT
        key = self.fitted(key)
        as_key(&writer.t, key, &k)
        try:
            return writer.put(&k, &v, ttl_ms, condition, expected)
        except LeaseLost:  # `ready` gets another one, or raises why there is none
            return self.store(key, value, ttl, condition, expected, keep_ttl)

    def _obey_rules(self):
        """Leaves what is refused here to the client's operations, whose rules may take it."""
        self.has_rules = True

    def set(self, key, value, ttl=None):
        """See `Client.set`."""
        try:
            return self.store(key, value, ttl, KV_SET, 0)
        except MisuseError:
            if not self.has_rules:
                raise
        return self._set_by(self._operations, key, value, ttl)

    def add(self, key, value, ttl=None):
        """See `Client.add`."""
        try:
            return self.store(key, value, ttl, KV_ADD, 0) != 0
        except MisuseError:
            if not self.has_rules:
                raise
        return self._run(self._operations.add(key, value, ttl))

    def replace(self, key, value, ttl=None, *, keep_ttl=False):
        """See `Client.replace`."""
        try:
            return self.store(key, value, ttl, KV_REPLACE, 0, keep_ttl) != 0
        except MisuseError:
            if not self.has_rules:
                raise
        return self._run(self._operations.replace(key, value, ttl, keep_ttl=keep_ttl))

    def cas(self, key, value, version, ttl=None, *, keep_ttl=False):
        """See `Client.cas`."""
        self._check_version(version)
        try:
            return self.store(key, value, ttl, KV_CAS, version, keep_ttl) != 0
        except MisuseError:
            if not self.has_rules:
                raise
        return self._run(self._operations.cas(key, value, version, ttl, keep_ttl=keep_ttl))

    def delete(self, key, version=None):
        """See `Client.delete`."""
        cdef Writer writer
        if version is not None:
            version = self._check_version(version)
        writer = self.ready()
        key = self.fitted(key)
        try:
            return writer.delete(key) if version is None else writer.delete_version(key, version)
        except LeaseLost:
            return self.delete(key, version)

    def touch(self, key, ttl=None):
        """See `Client.touch`."""
        cdef Writer writer = self.ready()
        cdef uint64_t ttl_ms
        key = self.fitted(key)
        try:
            ttl_ms = 0 if ttl is None else self.life_ms(ttl)
            return writer.touch(key, ttl_ms)
        except LeaseLost:
            return self.touch(key, ttl)
        except InvalidTTL:
            if not self.has_rules:
                raise
        return self._run(self._operations.touch(key, ttl))

    cdef int64_t counter(self, name, number) except? -1:
        cdef int overflow = 0
        cdef int64_t found = 0
        if PyLong_CheckExact(number):
            found = PyLong_AsLongLongAndOverflow(number, &overflow)
            if not overflow:
                return found
        self._check_counter(name, number)
        return found

    def incr(self, key, delta=1, initial=0, ttl=None):
        """See `Client.incr`."""
        cdef Writer writer = self.ready()
        cdef int64_t by = self.counter("delta", delta)
        if initial is not None:
            self.counter("initial", initial)
        cdef uint64_t ttl_ms
        key = self.fitted(key)
        try:
            ttl_ms = self.life_ms(ttl)
            return writer.incr(key, by, initial, ttl_ms)
        except LeaseLost:
            return self.incr(key, delta, initial, ttl)
        except InvalidTTL:
            if not self.has_rules:
                raise
        return self._run(self._operations.incr(key, delta, initial, ttl))

    def decr(self, key, delta=1, initial=0, ttl=None):
        """See `Client.decr`."""
        self.counter("delta", delta)
        return self.incr(key, -delta, initial, ttl)

    def _set_all(self, dict values, ttl):
        """Stores many values, or none if an argument is bad. One that a tiny table has no room for,
        because its key is long, does not stop the others.

        Returns:
            None; or after an error that the server's state caused, this error and how many were
            stored before it.

        Raises:
            ValueTooLarge: for such a long key; `failed` has all of these.
        """
        cdef kv_key k
        cdef kv_value v
        cdef int64_t cell
        cdef Writer writer
        cdef uint64_t ttl_ms
        cdef list holders = []
        cdef list codecs = []
        cdef Py_ssize_t longest = 0
        cdef list failed = []
        cdef Py_ssize_t done = 0
        refused = None
        for value in values.values():
            holder = self.as_value(value, &v, &cell)
            holders.append(holder)
            codecs.append(v.codec)
            longest = max(longest, plain_length(&v, holder))
        writer = self.ready()  # behind what may do anything, as in `store`
        if longest > self.value_bytes_max:
            raise self.too_large(longest)
        ttl_ms = self.life_ms(ttl)
        for key in values:
            as_key(&writer.t, key, &k)
        for key in values:
            holder = holders[done]
            v.codec = codecs[done]
            if PyBytes_CheckExact(holder):
                v.bytes = <const uint8_t *>PyBytes_AS_STRING(holder)
                v.length = <uint32_t>PyBytes_GET_SIZE(holder)
            else:
                self.as_value(holder, &v, &cell)
            try:
                while True:
                    as_key(&writer.t, key, &k)
                    try:
                        writer.put(&k, &v, ttl_ms, KV_SET, 0)
                        break
                    except LeaseLost:
                        writer = self.ready()
            except (ServerBusy, ServerUnavailable) as error:
                return error, done
            except ValueTooLarge as error:
                refused = refused or error
                failed.append(key)
            done += 1
        if refused is not None:
            refused.failed = failed
            raise refused
        return None
