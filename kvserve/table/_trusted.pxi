# The class TrustedWriter: from a Python value to a record in one call; part of _core.pyx.

cdef double TTL_SECONDS_MAX = TTL_MS_MAX / 1000.0


cdef class TrustedWriter(Reader):
    """The methods of a client that change one key, done in the table at once.

    Common cases go straight through here. Rare ones, and what does not concern the table, are left
    to methods of the client (kvserve/client/blocking/direct.py): `_join_writers` gets a Writer,
    `_life_ms` reads a ttl, `_check_counter` and `_check_version` refuse what is none.
    """

    cdef Writer writer
    cdef Py_buffer page
    cdef const uint64_t *version_now  # in the page
    cdef uint64_t version
    cdef uint64_t default_ttl_ms
    cdef Py_ssize_t value_bytes_max

    def __dealloc__(self):
        PyBuffer_Release(&self.page)

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

        Raises:
            InvalidValue, ValueTooLarge.
        """
        cdef Py_ssize_t size
        cdef int overflow = 0
        cdef object holder = value
        if PyBytes_CheckExact(value):
            v.codec = KV_CODEC_BYTES
        elif PyUnicode_CheckExact(value) and PyUnicode_IS_ASCII(value):
            # Any other text would keep a copy in UTF-8 for as long as it lives.
            v.codec = KV_CODEC_TEXT
            v.bytes = <const uint8_t *>PyUnicode_AsUTF8AndSize(value, &size)
        else:
            if PyLong_CheckExact(value):
                cell[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
                if not overflow:
                    v.codec, v.length, v.bytes = KV_CODEC_COUNTER, 8, <const uint8_t *>cell
                    return value
            v.codec, holder = encode(value)
        if v.codec != KV_CODEC_TEXT or holder is not value:
            v.bytes = <const uint8_t *>PyBytes_AS_STRING(holder)
            size = PyBytes_GET_SIZE(holder)
        if size > self.value_bytes_max:
            raise ValueTooLarge(
                f"a value of {size} bytes; at most {self.value_bytes_max} are allowed now"
            )
        v.length = <uint32_t>size
        return holder

    cdef uint64_t store(self, key, value, ttl, kv_condition condition,
                        uint64_t expected) except? 0:
        cdef kv_key k
        cdef kv_value v
        cdef int64_t cell
        cdef Writer writer = self.ready()
        cdef object holder = self.as_value(value, &v, &cell)
        cdef uint64_t ttl_ms = self.life_ms(ttl)
        as_key(&writer.t, key, &k)
        try:
            return writer.put(&k, &v, ttl_ms, condition, expected)
        except LeaseLost:  # `ready` gets another one, or raises why there is none
            return self.store(key, value, ttl, condition, expected)

    def set(self, key, value, ttl=None, *, tags=None):
        """See `Client.set`."""
        if tags is not None:
            return self._store_tagged("set", tags, key, value, ttl)
        return self.store(key, value, ttl, KV_SET, 0)

    def add(self, key, value, ttl=None, *, tags=None):
        """See `Client.add`."""
        if tags is not None:
            return self._store_tagged("add", tags, key, value, ttl)
        return self.store(key, value, ttl, KV_ADD, 0) != 0

    def replace(self, key, value, ttl=None, *, tags=None):
        """See `Client.replace`."""
        if tags is not None:
            return self._store_tagged("replace", tags, key, value, ttl)
        return self.store(key, value, ttl, KV_REPLACE, 0) != 0

    def cas(self, key, value, version, ttl=None, *, tags=None):
        """See `Client.cas`."""
        if tags is not None:
            return self._store_tagged("cas", tags, key, value, version, ttl)
        return self.store(key, value, ttl, KV_CAS, self._check_version(version)) != 0

    def delete(self, key, version=None):
        """See `Client.delete`."""
        cdef Writer writer
        if version is not None:
            version = self._check_version(version)
        writer = self.ready()
        try:
            return writer.delete(key) if version is None else writer.delete_version(key, version)
        except LeaseLost:
            return self.delete(key, version)

    def touch(self, key, ttl=None):
        """See `Client.touch`."""
        cdef Writer writer = self.ready()
        cdef uint64_t ttl_ms = 0 if ttl is None else self.life_ms(ttl)
        try:
            return writer.touch(key, ttl_ms)
        except LeaseLost:
            return self.touch(key, ttl)

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
        cdef uint64_t ttl_ms = self.life_ms(ttl)
        try:
            return writer.incr(key, by, initial, ttl_ms)
        except LeaseLost:
            return self.incr(key, delta, initial, ttl)

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
        """
        cdef kv_key k
        cdef kv_value v
        cdef int64_t cell
        cdef Writer writer = self.ready()
        cdef uint64_t ttl_ms = self.life_ms(ttl)
        cdef list holders = []
        cdef list codecs = []
        cdef Py_ssize_t done = 0
        refused = None
        for value in values.values():
            holders.append(self.as_value(value, &v, &cell))
            codecs.append(v.codec)
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
            done += 1
        if refused is not None:
            raise refused
        return None
