# The class Writer: changes a table; part of _core.pyx.

cdef class Writer(Owner):
    """Changes a table. One per process; see `kvserve.table.table.Table`."""

    def set_read_policy(self, bint misses, bint freshness, uint32_t workers):
        """Sets which reads must ask a worker; for the parent, before there are workers.

        Args:
            misses: reads of a key that is not in the table.
            freshness: and of one that is, unless its shard is fresh (`extend_freshness`).
            workers: how many there will be.
        """
        if not 1 <= workers <= KV_WORKERS_MAX:
            raise InternalError(f"{workers} workers")
        self._require_attached()
        kv_set_read_policy(&self.t, (KV_MISSES_ASK_WORKER if misses else 0) |
                         (KV_HITS_NEED_FRESHNESS if freshness else 0), workers)

    def keep_to(self, uint32_t place, uint32_t step):
        """Refuses from now on to read or change any other shards than `place`, `place + step` ...

        For a worker: a client may have meant another worker, whose number or shards have changed
        since the server was restarted. Two workers that write the same key at the same time would
        not keep its order.
        """
        if not place < step:
            raise InternalError(f"place {place} of {step}")
        self.place, self.step = place, step

    def check_own(self, keys):
        """Raises WrongWorker if one of the keys is in a shard that `keep_to` has left out.

        It ignores what is no key: executing the request refuses that.
        """
        cdef kv_key k
        if self.step == 1:
            return
        self._require_attached()
        for key in keys:
            try:
                as_key(&self.t, key, &k)
            except InvalidKey:
                continue
            self.require_own(k.shard)

    def extend_freshness(self, uint32_t worker, uint64_t until_ms):
        """Lets readers serve hits of a worker's shards until a moment on the monotonic clock.

        Never later: their clock lags, which is allowed for here.
        """
        if worker >= KV_WORKERS_MAX:
            raise InternalError(f"no worker {worker}")
        self._require_attached()
        kv_extend_freshness(&self.t, worker,
                            until_ms - min(until_ms, COARSE_CLOCK_LAG_MS))

    cpdef begin_request(self, uint32_t worker, uint64_t client, uint64_t request):
        """Notes what a worker executes from now on, for the client to see if the worker dies."""
        if worker < KV_WORKERS_MAX and self.attached:
            kv_begin_request(&self.t, worker, client, request)

    cpdef end_request(self, uint32_t worker):
        """Removes the note of `begin_request`."""
        if worker < KV_WORKERS_MAX and self.attached:
            kv_end_request(&self.t, worker)

    def keep_request(self, uint32_t worker):
        """Keeps the note of a worker's predecessor, if it died over a request."""
        if worker < KV_WORKERS_MAX and self.attached:
            kv_keep_request(&self.t, worker)

    @property
    def store_mark(self):
        """A number for the store that the values were written through to; 0: none."""
        self._require_attached()
        return kv_store_mark(&self.t)

    @store_mark.setter
    def store_mark(self, uint64_t mark):
        self._require_attached()
        kv_set_store_mark(&self.t, mark)

    def ttl_ms(self, key):
        """Milliseconds until a key expires, 0 if it never does, None on a miss."""
        self._require_attached()
        ttl = self._ttl_ms(key)
        if ttl is _ask_worker:
            raise ServerBusy("writers overtook this read too often")
        return ttl

    def shard_of(self, key):
        """The shard that a key belongs to. Raises InvalidKey."""
        return self._shard_of(key)

    def scan(self, shard, bucket, prefix):
        """Some keys of a shard that begin with a prefix, and the bucket to go on with or None."""
        return self._scan(shard, bucket, prefix)

    def shard_stats(self, shard):
        """Counters of a shard by name."""
        return self._shard_stats(shard)

    def geometry(self):
        """The sizes that the table was made with, by name."""
        return self._geometry()

    def instance_id(self):
        """The 16 bytes that distinguish this table from all others."""
        return self._instance_id()

    def reads(self):
        """(hits, misses) of all readers of the table."""
        return self._reads()

    def heed_notes(self, bytes notes not None, before=(0, 0, 0), bint only_look=False):
        """Raises hints and counts reads as a reader's notes say.

        Args:
            notes: a copy of them; any bytes do no harm.
            before: what this returned for them the last time.
            only_look: change nothing.

        Returns:
            Three numbers, for the next time; `before` if the notes are not about this table.
        """
        cdef kv_noted now, known
        self._require_attached()
        known.written, known.hits, known.misses = before
        if not kv_read_notes(&self.t, <const uint8_t *>PyBytes_AS_STRING(notes), len(notes), &now):
            return before
        if not only_look:
            kv_heed_notes(&self.t, <const uint8_t *>PyBytes_AS_STRING(notes), &now, &known)
        return now.written, now.hits, now.misses

    def retire(self):
        """Gives the table up: attached processes let go of it."""
        self._require_attached()
        kv_retire(<uint8_t *>self.table_view.buf)

    def read(self, key):
        """(codec, payload, version) of a key, or None on a miss. Counts as a read of the key.

        Of a value with tags, (codec, payload, version, True).
        """
        cdef kv_view view
        payload = self.read_payload(key, &view)
        if payload is None:
            return None
        if view.flags & KV_FLAG_TAGGED:
            return view.codec, payload, view.cas, True
        return view.codec, payload, view.cas

    def read_record(self, key):
        """As `read`, and fourth the milliseconds that the key has to live, 0 for ever."""
        cdef kv_view view
        payload = self.read_payload(key, &view)
        if payload is None:
            return None
        return view.codec, payload, view.cas, life_left(view.expiry_ms)

    cdef bytes read_payload(self, key, kv_view *view):
        cdef kv_key k
        cdef int retries
        cdef bytes payload
        cdef kv_status status
        cdef bint locked = False
        self._require_attached()
        as_key(&self.t, key, &k)
        self.require_own(k.shard)
        for retries in range(RETRIES_MAX + 1):
            # Only under the lock are a counter's cell and version read as one, and does a record
            # hold still that writers keep overtaking.
            if retries == RETRIES_MAX and not locked:
                self.lock(k.shard)
                locked = True
            status = kv_find(&self.t, &k, view)
            if status == KV_MISSING:
                payload = None
                break
            if status == KV_CONTENDED or not kv_view_intact(view):
                continue
            if view.flags & KV_FLAG_TAGGED:
                status = kv_view_tags(&self.t, view)
                if status == KV_CONTENDED and not locked:
                    continue
                if status != KV_DONE:
                    payload = None
                    break
            if view.codec == KV_CODEC_COUNTER and not locked:
                self.lock(k.shard)
                locked = True
                continue
            try:
                payload = PyBytes_FromStringAndSize(<const char *>view.value, view.value_bytes)
            except MemoryError:
                if locked:
                    self.unlock(k.shard)
                raise
            if locked or kv_view_intact(view):
                break
        else:
            payload = None
        if locked:
            self.unlock(k.shard)
        if payload is None or kv_view_flushed(&self.t, k.shard, view) or (
                view.expiry_ms != 0 and view.expiry_ms <= now_ms()):
            kv_count_read(&self.t, False)
            return None
        kv_view_touch(&self.t, view)
        kv_count_read(&self.t, True)
        return payload

    cdef uint64_t put(self, const kv_key *k, kv_value *v, uint64_t ttl_ms, kv_condition condition,
                      uint64_t expected) except? 0:
        """Stores v with its expiry set here; the new version, or 0 if the condition failed."""
        cdef uint64_t version = 0, now
        cdef kv_status status
        self.lock(k.shard)
        now = self.now()  # only here: waiting for the lock may have taken long
        if ttl_ms == LIFE_MS_KEPT:
            v.expiry_ms = KV_EXPIRY_KEPT
        else:
            v.expiry_ms = now + ttl_ms if ttl_ms else 0
        status = kv_store(&self.t, k, v, condition, expected, now, &version)
        self.unlock(k.shard)
        if status == KV_TOO_LARGE:
            raise ValueTooLarge(
                f"a value of {v.length} bytes under a key of {k.length}; the value may have "
                f"{self.t.geometry.value_bytes_max} bytes here, fewer in a tiny table if its key "
                "is long"
            )
        return version if status == KV_DONE else 0

    cdef uint64_t _store(self, key, int codec, bytes payload, uint64_t ttl_ms,
                         kv_condition condition, uint64_t expected) except? 0:
        cdef kv_key k
        cdef kv_value v
        as_key(&self.t, key, &k)
        v.bytes = <const uint8_t *>PyBytes_AS_STRING(payload)
        v.length = <uint32_t>PyBytes_GET_SIZE(payload)
        v.codec = codec
        return self.put(&k, &v, ttl_ms, condition, expected)

    def set(self, key, int codec, bytes payload not None, uint64_t ttl_ms):
        """Stores a payload under a key; ttl_ms 0 never expires. Returns the new version."""
        return self._store(key, codec, payload, ttl_ms, KV_SET, 0)

    def add(self, key, int codec, bytes payload not None, uint64_t ttl_ms):
        """As `set`, if the key is missing; returns 0 if not."""
        return self._store(key, codec, payload, ttl_ms, KV_ADD, 0)

    def replace(self, key, int codec, bytes payload not None, uint64_t ttl_ms):
        """As `set`, if the key is there; returns 0 if not. With a ttl of LIFE_MS_KEPT the value
        expires when the one before would have."""
        return self._store(key, codec, payload, ttl_ms, KV_REPLACE, 0)

    def cas(self, key, int codec, bytes payload not None, uint64_t ttl_ms, uint64_t version):
        """As `replace`, if the key's version is this; returns 0 if not."""
        return self._store(key, codec, payload, ttl_ms, KV_CAS, version)

    cpdef bint delete(self, key) except -1:
        """Removes a key; returns whether it was there."""
        cdef kv_key k
        cdef kv_status status
        as_key(&self.t, key, &k)
        self.lock(k.shard)
        status = kv_delete(&self.t, &k, self.now())
        self.unlock(k.shard)
        return status == KV_DONE

    def withdraw(self, key):
        """Takes a key out while it is being written to a store; no event, and no delete."""
        cdef kv_key k
        as_key(&self.t, key, &k)
        self.lock(k.shard)
        kv_withdraw(&self.t, &k, self.now())
        self.unlock(k.shard)

    cpdef bint delete_version(self, key, uint64_t version) except -1:
        """Removes a key if it still has this version; returns whether it did."""
        cdef kv_key k
        cdef kv_status status
        as_key(&self.t, key, &k)
        self.lock(k.shard)
        status = kv_delete_version(&self.t, &k, version, self.now())
        self.unlock(k.shard)
        return status == KV_DONE

    cpdef bint touch(self, key, uint64_t ttl_ms) except -1:
        """Gives a key a new time to live, 0 for ever; returns whether it was there."""
        cdef kv_key k
        cdef kv_status status
        as_key(&self.t, key, &k)
        self.lock(k.shard)
        status = kv_touch(&self.t, &k, expiry_after(ttl_ms), self.now())
        self.unlock(k.shard)
        return status == KV_DONE

    cpdef object incr(self, key, int64_t delta, initial, uint64_t ttl_ms):
        """Adds to a counter; a missing one starts at `initial`, or stays missing if that is None.

        Returns the new number, or None. Raises NotACounter, CounterOverflow; both change nothing.
        """
        cdef kv_key k
        cdef kv_status status
        cdef int64_t first = 0, result = 0
        as_key(&self.t, key, &k)
        if initial is not None:
            first = initial
        self.lock(k.shard)
        status = kv_increment(&self.t, &k, delta, NULL if initial is None else &first,
                              expiry_after(ttl_ms), self.now(), &result)
        self.unlock(k.shard)
        if status == KV_NOT_COUNTER:
            raise NotACounter(
                "the value of this key is no counter: an int of 64 bits with its sign"
            )
        if status == KV_OVERFLOW:
            raise CounterOverflow("the sum does not fit in a signed 64-bit integer")
        if status == KV_TOO_LARGE:
            raise ValueTooLarge("this table is too small for a counter under this key")
        return result if status == KV_DONE else None

    def flush(self, uint32_t shard):
        """Ends all records of a shard at once."""
        self._check_shard(shard)
        self.lock(shard)
        kv_flush(&self.t, shard, self.now())
        self.unlock(shard)

    def sweep(self, uint32_t shard, uint32_t bucket, uint32_t buckets):
        """Collects what expired in some buckets; returns the bucket to go on with, 0 at the end.

        Does nothing while another process holds the shard's lock: there will be another time.
        """
        self._check_shard(shard)
        self._require_lease()
        if not kv_try_acquire(&self.t, self.me, shard):
            return bucket
        bucket = kv_sweep(&self.t, shard, bucket, buckets, self.now())
        self.unlock(shard)
        return bucket

    def verify(self, uint32_t shard):
        """Checks every invariant of a shard under its lock; returns what is violated, as text.

        Runs without the GIL, so that threads can check shards side by side.
        """
        cdef kv_violation violations[16]
        cdef uint32_t count
        cdef uint8_t *scratch
        self._check_shard(shard)
        scratch = <uint8_t *>PyMem_Calloc(kv_verify_scratch_bytes(&self.t), 1)
        if scratch == NULL:
            raise MemoryError()
        try:
            self.lock(shard)
            with nogil:
                count = kv_verify(&self.t, shard, scratch, violations, 16)
            self.unlock(shard)
        finally:
            PyMem_Free(scratch)
        told = [
            f"shard {shard}: V{violations[i].rule} is violated at {violations[i].where}"
            for i in range(min(count, 16))
        ]
        return told + ([f"shard {shard}: and {count - 16} more"] if count > 16 else [])

    def _check_shard(self, uint32_t shard):
        if shard >= self.t.geometry.shards:
            raise IndexError(f"no shard {shard}")
