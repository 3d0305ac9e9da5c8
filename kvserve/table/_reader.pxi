# The class Reader: reads without locks; part of _core.pyx.

cdef class Reader(Scanner):
    """Reads a table in shared memory, without locks. See `kvserve.table.segment` to open one."""

    cdef uint32_t policy_mask  # the flags of `kv_read_mode` that this reader obeys
    cdef uint64_t wall_ahead_ns  # of the monotonic clock; see `expired`
    cdef uint64_t boot_ahead_ms
    cdef object decode  # of payloads, as `is_packed` says
    # Some records count as missing, which only a subclass knows: a namespace asks it for each key.
    cdef public bint _hides_some
    cdef object fit  # returns what replaces a key that is too long; None: such keys are refused

    def __cinit__(self):
        self.decode = codec.decode
        self._hides_some = False
        self.policy_mask = KV_READS_HERE | KV_MISSES_ASK_WORKER | KV_HITS_NEED_FRESHNESS
        self.wall_ahead_ns = 0  # the epoch began before any boot

    def _use_values(self, encode, decode, as_is_bytes_max):
        """Makes values of payloads by `decode` from now on; see kvserve/client/values.py."""
        self.decode = decode
    def _set_fitting(self, fit):
        """Sets what replaces keys that may not fit."""
        self.fit = fit

    cdef inline object fitted(self, key):
        """The key, or what replaces it. It must live as long as its bytes are borrowed."""
        return self.fit(key) if self.fit is not None and may_not_fit(key) else key

    cdef inline uint32_t reading(self) noexcept:
        """How to read now, as `kv_read_mode` says; 0: not here."""
        if self.stripe_of != forks:
            self.choose_stripe()
        return kv_read_mode(&self.t) & self.policy_mask if self.attached and self.reads_here else 0

    cdef inline bint lapsed(self, uint32_t reading, uint32_t shard) noexcept:
        """Whether reads of a shard need freshness that has run out. See `kv_fresh_until`."""
        if not reading & KV_HITS_NEED_FRESHNESS:
            return False
        return clock_ms(CLOCK_MONOTONIC_COARSE) >= kv_fresh_until(&self.t, shard)

    cdef inline bint expired(self, uint64_t expiry_ms) noexcept:
        """Whether an expiry has come: by `now_ms`, which takes 16 ns, or by two clocks that lag a
        tick behind, which take 7.

        These two do not count suspend. But a suspend, like setting the clock, changes the distance
        between them; then, and near the expiry, the clock of the expiries decides.
        """
        cdef uint64_t monotonic_ns = clock_ns(CLOCK_MONOTONIC_COARSE)
        cdef uint64_t wall_ahead_ns = clock_ns(CLOCK_REALTIME_COARSE) - monotonic_ns
        cdef uint64_t monotonic_ms = monotonic_ns // 1_000_000
        cdef uint64_t now
        if wall_ahead_ns == self.wall_ahead_ns and (
            expiry_ms > monotonic_ms + self.boot_ahead_ms + COARSE_CLOCK_LAG_MS
        ):
            return False
        now = now_ms()
        self.wall_ahead_ns = wall_ahead_ns
        self.boot_ahead_ms = now - monotonic_ms + 1  # both were rounded down
        return expiry_ms <= now

    @property
    def _usable(self):
        """Whether reads come from the table, and not from a worker."""
        return self.reading() != 0

    @property
    def _retired(self):
        """Whether the table was given up, so that its successor must be attached."""
        return self.attached and not kv_ready(&self.t)

    cdef object _copy(self, const kv_key *key, kv_view *view, bint begun=False):
        """What a live key holds, whole; `_miss`; or `_ask_worker` if writers kept overtaking it.

        It is a value, or where `is_packed` says so a payload. Decode that once nothing of the view
        is needed any more: decoding may let another thread in, which may detach the table.

        Args:
            begun: `kv_prefetch_record` has begun to find it.
        """
        cdef int retries
        cdef kv_status status
        cdef object value
        cdef char stack[STACK_BYTES]
        for retries in range(RETRIES_MAX):
            status = (kv_find_prefetched if begun else kv_find)(&self.t, key, view)
            begun = False
            if status == KV_MISSING:
                return _miss
            if status == KV_CONTENDED:
                return _ask_worker
            if view.value_bytes > STACK_BYTES and not kv_view_intact(view):
                continue  # its length may be anything: do not allocate that
            if view.codec == KV_CODEC_COUNTER:
                value = kv_view_counter(view)
            elif view.codec == KV_CODEC_TEXT and view.value_bytes <= STACK_BYTES:
                # Decoded from a copy: the decoder reads twice and must see the same bytes.
                memcpy(stack, view.value, view.value_bytes)
                if not kv_view_intact(view):
                    continue
                try:
                    value = PyUnicode_DecodeUTF8(stack, view.value_bytes, NULL)
                except UnicodeDecodeError:
                    # As a long text, which is packed: decoding it raises what is wrong.
                    value = PyBytes_FromStringAndSize(stack, view.value_bytes)
                    view.value_bytes = STACK_BYTES + 1
            else:
                value = PyBytes_FromStringAndSize(<const char *>view.value, view.value_bytes)
            if kv_view_intact(view):
                break
        else:
            return _ask_worker
        if view.expiry_ms != 0 and self.expired(view.expiry_ms):
            return _miss
        if kv_view_flushed(&self.t, key.shard, view):
            return _miss
        return value

    cdef inline int _count_hit(self, const kv_view *view) except -1:
        kv_count_read(&self.t, True)
        if kv_view_touch(&self.t, view):
            self._on_full_notes()
        return 0

    def _on_full_notes(self):
        """Called when notes (see `_write_notes`) have gone once round. For subclasses."""

    def get(self, key, default=None):
        """The value of a key.

        Args:
            key: str or bytes, 1 to 1024 bytes (a str is its UTF-8).
            default: what a miss returns.

        Returns:
            The value as it was stored, or the default.

        Raises:
            InvalidKey: the key is of another type or length.
            UnreadableValue: what is stored is no value that this kvserve knows.
            ServerError: a worker had to be asked and did not answer.

        Example:
            >>> cache.get("nobody", default="-")
            '-'
        """
        cdef kv_key k
        cdef object value
        cdef uint32_t reading = self.reading()
        if reading == 0:
            return self._get_from_worker(key, default)
        cdef object held = self.fitted(key)
        as_key(&self.t, held, &k)
        value = self.get_located(reading, &k, key, default)
        return self._get_from_worker(key, default) if value is _ask_worker else value

    cdef inline object get_located(self, uint32_t reading, const kv_key *k, key, default):
        """What a `get` of this key returns, or `_ask_worker`."""
        cdef kv_view view
        cdef object value
        if self.lapsed(reading, k.shard):
            return _ask_worker
        value = self._copy(k, &view)
        if value is _miss:
            if reading & KV_MISSES_ASK_WORKER:
                return _ask_worker
            kv_count_read(&self.t, False)
            return default
        if value is _ask_worker:
            return _ask_worker
        self._count_hit(&view)
        return self.decode(view.codec, value, key) if is_packed(&view) else value

    def _get_from_worker(self, key, default):
        """What `get` returns for a key that cannot be read here. Subclasses ask a worker."""
        return _ask_worker

    def get_many(self, keys):
        """The values of those keys that are there.

        Args:
            keys: an iterable of keys. Each is as for `get`.

        Returns:
            A dict of keys and values, in the keys' order; what a worker returned comes last.
            A key whose value cannot be read is left out like a missing one; `get` says why.

        Raises:
            InvalidArgument: `keys` is one key, or not iterable.
            InvalidKey, ServerError: as `get`.

        Example:
            >>> cache.set_many({"a": 1, "b": 2})
            >>> cache.get_many(["a", "b", "nobody"])
            {'a': 1, 'b': 2}
        """
        cdef list rest = []
        cdef dict found = self._get_some_here(keys, rest)
        return self._get_many_from_worker(found, rest) if rest else found

    def _get_many_from_worker(self, found, rest):
        """What `get_many` returns if the rest of its keys cannot be read here."""
        return found

    def _get_many_here(self, keys):
        """Reads many keys: (dict of the hits, list of the keys to ask a worker for)."""
        cdef list rest = []
        return self._get_some_here(keys, rest), rest

    cdef dict _get_some_here(self, keys, list rest, tuple names=None):
        """The hits among many keys; appends those to ask a worker for to `rest`.

        Args:
            names: what each hit is called in the dict; None: as its key.
        """
        check_keys(keys)
        cdef tuple wanted = tuple(keys)  # ours: the caller's may change while a value is decoded
        cdef tuple held = wanted
        if self.fit is not None:
            held = tuple([self.fitted(key) for key in wanted])
        cdef Py_ssize_t n = 0, count = len(wanted)
        cdef uint32_t reading
        # A dict that grows while it is filled takes a fifth more time.
        cdef dict found = new_dict(min(count, PRESIZED_MAX))
        while n < count and (reading := self.reading()) != 0:
            n = self._get_group(reading, wanted, held, names or wanted, n, found, rest)
        for n in range(n, count):
            check_key(held[n])
            rest.append(wanted[n])
        return found

    cdef Py_ssize_t _get_group(self, uint32_t reading, tuple wanted, tuple held, tuple names,
                               Py_ssize_t first, dict found, list rest) except -1:
        """Reads the next keys of many, in steps (see `kv_prefetch_bucket`); returns where to go on.

        In a table of a million items, a key takes 170 ns so, and 420 one after the other.
        """
        cdef kv_key k[KEYS_AHEAD]
        cdef kv_view view[KEYS_AHEAD]
        cdef bint here[KEYS_AHEAD]
        cdef object key, value
        cdef Py_ssize_t n, count = min(<Py_ssize_t>KEYS_AHEAD, len(wanted) - first)
        cdef uint64_t attachment = self.attachment
        for n in range(count):
            as_key(&self.t, held[first + n], &k[n])
            kv_prefetch_bucket(&self.t, &k[n], &view[n])
        for n in range(count):
            here[n] = not self.lapsed(reading, k[n].shard)
            kv_prefetch_record(&self.t, &k[n], &view[n])
        for n in range(count):
            # Decoding, and a key's own __eq__, let other code in, which may attach another table.
            if self.attachment != attachment:
                return first + n
            key = wanted[first + n]
            value = self._copy(&k[n], &view[n], begun=True) if here[n] else _ask_worker
            if value is _ask_worker or (value is _miss and reading & KV_MISSES_ASK_WORKER):
                rest.append(key)
            elif value is _miss:
                kv_count_read(&self.t, False)
            else:
                self._count_hit(&view[n])
                if is_packed(&view[n]):
                    try:
                        value = self.decode(view[n].codec, value, key)
                    except UnreadableValue:
                        continue
                found[names[first + n]] = value
        return first + count

    cdef object look(self, key, kv_view *view):
        """As `_copy`, of any key; `_ask_worker` also where only a worker knows. Counts a miss."""
        cdef kv_key k
        cdef object value
        cdef uint32_t reading = self.reading()
        if reading == 0:
            return _ask_worker
        cdef object held = self.fitted(key)
        as_key(&self.t, held, &k)
        if self.lapsed(reading, k.shard):
            return _ask_worker
        value = self._copy(&k, view)
        if value is _miss:
            if reading & KV_MISSES_ASK_WORKER:
                return _ask_worker
            kv_count_read(&self.t, False)
        return value

    def get_here(self, key, default=None):
        """What shared memory says of a key; asks no worker, so it never waits for one.

        Args:
            key, default: as for `get`.

        Returns:
            The value, the default on a miss, or `kvserve.ASK_WORKER` where only a worker can
            know: `get` asks it. That is so if a store is behind the cache, on a miss and on a hit
            that is no longer fresh; if the table was replaced or the client was closed; and always
            for a client that was connected with `read="worker"`.

        Raises:
            InvalidKey, UnreadableValue: as `get`.

        Example:
            >>> cache.set("user:1", "Ada") > 0, cache.get_here("user:1"), cache.get_here("nobody")
            (True, 'Ada', None)
        """
        cdef kv_view view
        cdef object value = self.look(key, &view)
        if value is _miss:
            return default
        if value is _ask_worker:
            return value
        self._count_hit(&view)
        return self.decode(view.codec, value, key) if is_packed(&view) else value

    def _gets_here(self, key):
        """(value, version), None on a miss, or ASK_WORKER.

        A counter's value and version are two cells, which only the lock's owner can read as one.
        """
        cdef kv_view view
        cdef object value = self.look(key, &view)
        if value is _miss:
            return None
        if value is _ask_worker or view.codec == KV_CODEC_COUNTER:
            return _ask_worker
        self._count_hit(&view)
        return self.decode(view.codec, value, key) if is_packed(&view) else value, view.cas

    def _record_here(self, key):
        """(value, milliseconds to live, version) as `_gets_here`; 0 for ever."""
        cdef kv_view view
        cdef object value = self.look(key, &view)
        if value is _miss:
            return None
        if value is _ask_worker or view.codec == KV_CODEC_COUNTER:
            return _ask_worker
        self._count_hit(&view)
        value = self.decode(view.codec, value, key) if is_packed(&view) else value
        return value, life_left(view.expiry_ms), view.cas

    def _ttl_ms(self, key):
        """Milliseconds until a key expires, 0 if it never does, None on a miss, or ASK_WORKER."""
        cdef kv_key k
        cdef kv_view view
        cdef int retries
        cdef uint64_t now
        cdef kv_status status
        cdef uint32_t reading = self.reading()
        cdef object miss = _ask_worker if reading & KV_MISSES_ASK_WORKER else None
        if reading == 0:
            return _ask_worker
        cdef object held = self.fitted(key)
        as_key(&self.t, held, &k)
        if self.lapsed(reading, k.shard):
            return _ask_worker
        for retries in range(RETRIES_MAX):
            status = kv_find(&self.t, &k, &view)
            if status == KV_MISSING:
                return miss
            if status == KV_CONTENDED:
                return _ask_worker
            if not kv_view_intact(&view):
                continue
            if kv_view_flushed(&self.t, k.shard, &view):
                return miss
            if view.expiry_ms == 0:
                return 0
            now = now_ms()
            return view.expiry_ms - now if view.expiry_ms > now else miss
        return _ask_worker
