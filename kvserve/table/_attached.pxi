# The class Attached: a table that this process has mapped; part of _core.pyx.

cdef class Attached:
    """A table in shared memory that this process has mapped: its keys' shards, and statistics."""

    cdef kv_table t
    cdef bint attached
    cdef uint64_t attachment  # changes with each attach and detach
    cdef bint reads_here
    cdef unsigned long long stripe_of  # the count of forks when the stripe was chosen
    cdef Py_buffer table_view
    cdef Py_buffer hints_view
    cdef bint has_notes
    cdef Py_buffer notes_view

    def __dealloc__(self):
        self._release()

    cdef void _release(self) noexcept:
        if self.attached:
            self.attached = False
            self.attachment += 1
            PyBuffer_Release(&self.table_view)
            PyBuffer_Release(&self.hints_view)
            if self.has_notes:
                self.has_notes = False
                PyBuffer_Release(&self.notes_view)

    def _attach(self, table, hints, bytes boot_id, bint reads_here=True, notes=None):
        """Checks the mapped segments and reads from them from now on.

        Args:
            table, hints: buffers; the table's may be read-only, and with notes the hints', too.
            boot_id: this boot's.
            reads_here: False: only finds keys' shards, and all reads return ASK_WORKER.
            notes: where to note reads instead of in the hints, see `_write_notes`.

        Raises:
            ForeignObject: they are not a whole and ready table of this layout and boot.
        """
        cdef Py_buffer table_view, hints_view
        cdef kv_table t
        cdef const char *wrong
        PyObject_GetBuffer(table, &table_view, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(hints, &hints_view,
                               PyBUF_WRITABLE if notes is None else PyBUF_SIMPLE)
        except BaseException:
            PyBuffer_Release(&table_view)
            raise
        wrong = kv_attach(&t, <uint8_t *>table_view.buf, table_view.len,
                          <uint8_t *>hints_view.buf, hints_view.len, boot_id)
        if wrong != NULL:
            PyBuffer_Release(&table_view)
            PyBuffer_Release(&hints_view)
            raise ForeignObject(f"the table cannot be used: {wrong.decode()}")
        self._release()
        self.t = t
        self.choose_stripe()
        self.table_view, self.hints_view = table_view, hints_view
        self.reads_here = reads_here
        self.attached = True
        self.attachment += 1
        if notes is not None:
            self._write_notes(notes)

    def _write_notes(self, notes):
        """Notes reads in this buffer from now on: `LAYOUT["notes_bytes"]` bytes, writable."""
        cdef Py_buffer view
        PyObject_GetBuffer(notes, &view, PyBUF_WRITABLE)
        if not self.attached or <size_t>view.len < sizeof(kv_notes):
            PyBuffer_Release(&view)
            raise InternalError(f"notes of {len(notes)} bytes, or no table that they are about")
        kv_write_notes(&self.t, <uint8_t *>view.buf)
        if self.has_notes:
            PyBuffer_Release(&self.notes_view)
        self.notes_view, self.has_notes = view, True

    cdef int _require_attached(self) except -1:
        if not self.attached:
            raise ClientClosed("this table was closed")
        return 0

    cdef void choose_stripe(self) noexcept:
        """Counts reads apart from other processes; called again in each forked child."""
        self.t.stripe = getpid() % KV_READER_STRIPES
        self.stripe_of = forks

    def _detach(self):
        """Lets go of the segments. Reads return ASK_WORKER from now on."""
        self._release()

    def _shard_of(self, key):
        """The shard that a key belongs to. Raises InvalidKey. Works after `_detach`, too."""
        cdef kv_key k
        as_key(&self.t, key, &k)
        return k.shard

    def _tags(self, keys, generations):
        """What a value with tags begins with in the table.

        Args:
            keys: those of the tags' records, at most `LAYOUT["tags_max"]`.
            generations: what these records hold.

        Raises:
            InvalidArgument: there is a store behind the table, where tags are not written.
        """
        cdef kv_key k
        cdef kv_tag tag
        cdef list tags = [len(generations).to_bytes(KV_TAGS_HEAD_BYTES, "little")]
        if self.attached and kv_read_mode(&self.t) & KV_MISSES_ASK_WORKER:
            raise InvalidArgument(
                "tags = ...: this server has a store behind its table, and a store keeps no tags; "
                "use a namespace, or a server without a store"
            )
        for key, generation in zip(keys, generations):
            as_key(&self.t, key, &k)
            tag.hash = k.hash
            tag.generation = <uint64_t><int64_t>generation
            tags.append(PyBytes_FromStringAndSize(<const char *>&tag, sizeof(tag)))
        return b"".join(tags)

    def _split(self, keys, uint32_t workers):
        """The keys in one list for each worker, in their order. Raises InvalidKey."""
        cdef kv_key k
        cdef object key
        cdef list parts = [[] for _ in range(workers)]
        for key in keys:
            as_key(&self.t, key, &k)
            (<list>parts[k.shard % workers]).append(key)
        return parts

    def _shard_stats(self, uint32_t shard):
        """Counters of a shard by name."""
        cdef kv_counts counts
        self._require_attached()
        if shard >= self.t.geometry.shards:
            raise IndexError(f"no shard {shard}")
        kv_counts_of(&self.t, shard, &counts)
        statistics = counts.statistics
        return {
            "items": counts.items,
            "live_bytes": counts.live_bytes,
            "overflow_buckets": counts.overflow_used,
            "sets": statistics[KV_SETS],
            "deletes": statistics[KV_DELETES],
            "touches": statistics[KV_TOUCHES],
            "increments": statistics[KV_INCREMENTS],
            "evictions": statistics[KV_EVICTIONS],
            "expirations": statistics[KV_EXPIRATIONS],
            "index_evictions": statistics[KV_INDEX_EVICTIONS],
            "promotions": statistics[KV_PROMOTIONS],
            "reinsertions": statistics[KV_REINSERTIONS],
            "cleaned": statistics[KV_CLEANED],
            "ghost_hits": statistics[KV_GHOST_HITS],
            "flushes": statistics[KV_FLUSHES],
            "lock_recoveries": statistics[KV_LOCK_RECOVERIES],
            "withdrawals": statistics[KV_WITHDRAWALS],
        }

    def _reads(self):
        """(hits, misses) of all readers. Readers that share a stripe may lose a few."""
        cdef uint64_t hits, misses
        self._require_attached()
        kv_reads(&self.t, &hits, &misses)
        return hits, misses

    def _died_over(self, uint64_t client, uint64_t request):
        """Whether a worker died while it executed a request of a session that has ended."""
        return self.attached and kv_died_over(&self.t, client, request)

    def _geometry(self):
        """The fields of the C structure, by name."""
        return dict(self.t.geometry)

    def _instance_id(self):
        """The 16 bytes that distinguish this table from all others."""
        cdef uint8_t identity[16]
        self._require_attached()
        kv_instance_id(&self.t, identity)
        return PyBytes_FromStringAndSize(<const char *>identity, 16)
