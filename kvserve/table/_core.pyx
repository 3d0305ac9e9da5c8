"""The thin skin over the C core: Python objects in, Python objects out, no decisions.

`Reader` reads without a lock and needs the table mapped read-only. `Writer` changes it, inside the
shard's lock. No Python code runs inside that lock: it could come back in (a finalizer, a signal
handler) and wait for itself.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memcpy, memset
from posix.time cimport clock_gettime

import os

from kvserve.errors import (
    CounterOverflow,
    ForeignObject,
    InternalError,
    InvalidKey,
    NotACounter,
    ServerBusy,
    ServerUnavailable,
    ValueTooLarge,
)
from kvserve.limits import KEY_BYTES_MAX, LOCK_WAIT_MS
from kvserve.protocol.codec import decode

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "<time.h>" nogil:
    int CLOCK_BOOTTIME

assert KEY_BYTES_MAX == KV_KEY_BYTES_MAX

LAYOUT_VERSION = KV_LAYOUT_VERSION
LAYOUT = {
    "superblock_bytes": KV_SUPERBLOCK_BYTES,
    "hints_header_bytes": KV_HINTS_HEADER_BYTES,
    "shard_header_bytes": KV_SHARD_HEADER_BYTES,
    "record_header_bytes": KV_RECORD_HEADER_BYTES,
    "line_bytes": KV_LINE,
    "bucket_entries": KV_BUCKET_ENTRIES,
    "hints_a_bucket": KV_HINTS_A_BUCKET,
    "ghost_tags": KV_GHOST_TAGS,
}


class Elsewhere:
    """What a read answers that only a worker can answer. There is one: `ELSEWHERE`."""


cdef object _elsewhere = Elsewhere()
cdef object _miss = object()
ELSEWHERE = _elsewhere

cdef int RETRIES_MAX = 64
cdef uint32_t STACK_BYTES = 1024
cdef uint32_t SCAN_KEYS = 512  # about how many keys one scan answers


cdef inline uint64_t now_ms() noexcept nogil:
    """The clock of all expiries: it counts through suspend, and does not jump."""
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


cdef inline uint64_t expiry_after(uint64_t ttl_ms) noexcept nogil:
    return now_ms() + ttl_ms if ttl_ms else 0


cdef inline int as_key(const kv_table *t, object key, kv_key *out) except -1:
    """Borrows the key's bytes, which live as long as the object."""
    cdef Py_ssize_t size
    if isinstance(key, bytes):
        out.bytes = <const uint8_t *>PyBytes_AS_STRING(key)
        size = PyBytes_GET_SIZE(key)
        out.flags = 0
    elif isinstance(key, str):
        try:
            out.bytes = <const uint8_t *>PyUnicode_AsUTF8AndSize(key, &size)
        except UnicodeEncodeError as error:
            raise InvalidKey(f"a key that cannot be encoded as UTF-8: {error.reason}") from None
        out.flags = KV_FLAG_TEXT_KEY
    else:
        raise InvalidKey(f"a key is str or bytes, not {type(key).__name__}")
    if size == 0:
        raise InvalidKey("a key must not be empty")
    if size > KV_KEY_BYTES_MAX:
        raise InvalidKey(f"a key of {size} bytes; at most {KEY_BYTES_MAX} are allowed")
    out.length = <uint32_t>size
    kv_locate(t, out)
    return 0


def check_key(key):
    """Raises InvalidKey unless `key` is a str or bytes of 1 to 1024 bytes."""
    cdef kv_table nowhere
    cdef kv_key unused
    memset(&nowhere, 0, sizeof(nowhere))
    as_key(&nowhere, key, &unused)


def format_segments(table, hints, dict geometry, bytes boot_id, bytes instance_id, bytes hash_key):
    """Makes an empty table of new, zeroed segments, ready for use.

    Args:
        table, hints: writable buffers of the geometry's sizes.
        geometry: the fields of the C structure, by name.
        boot_id, instance_id: 16 bytes each.
        hash_key: 32 random bytes.
    """
    cdef kv_geometry g
    cdef Py_buffer table_view, hints_view
    cdef uint64_t secret[4]
    g = geometry
    if not kv_geometry_valid(&g):
        raise InternalError(f"a geometry that makes no sense: {geometry}")
    assert len(boot_id) == 16 and len(instance_id) == 16 and len(hash_key) == 32
    memcpy(secret, PyBytes_AS_STRING(hash_key), 32)
    PyObject_GetBuffer(table, &table_view, PyBUF_WRITABLE)
    try:
        PyObject_GetBuffer(hints, &hints_view, PyBUF_WRITABLE)
        try:
            assert <uint64_t>table_view.len == g.table_bytes
            assert <uint64_t>hints_view.len == g.hints_bytes
            kv_format(<uint8_t *>table_view.buf, <uint8_t *>hints_view.buf, &g, boot_id,
                      instance_id, secret)
        finally:
            PyBuffer_Release(&hints_view)
    finally:
        PyBuffer_Release(&table_view)


def retire_segment(table):
    """Marks a writable table segment as given up, so that everybody attached lets go of it."""
    cdef Py_buffer view
    PyObject_GetBuffer(table, &view, PyBUF_WRITABLE)
    if <uint64_t>view.len >= KV_SUPERBLOCK_BYTES:
        kv_retire(<uint8_t *>view.buf)
    PyBuffer_Release(&view)


cdef class Reader:
    """Reads a table in shared memory, without locks. See `kvserve.table.segment` to open one."""

    cdef kv_table t
    cdef bint attached
    cdef bint reads_here
    cdef Py_buffer table_view
    cdef Py_buffer hints_view

    def __dealloc__(self):
        self._release()

    cdef void _release(self) noexcept:
        if self.attached:
            self.attached = False
            PyBuffer_Release(&self.table_view)
            PyBuffer_Release(&self.hints_view)

    def _attach(self, table, hints, bytes boot_id, bint reads_here=True):
        """Checks the mapped segments and reads from them from now on.

        Args:
            table, hints: buffers; the table's may be read-only.
            boot_id: this boot's.
            reads_here: False: only for finding keys' shards, all reads answer ELSEWHERE.

        Raises:
            ForeignObject: they are not a whole and ready table of this layout and boot.
        """
        cdef Py_buffer table_view, hints_view
        cdef kv_table t
        cdef const char *wrong
        PyObject_GetBuffer(table, &table_view, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(hints, &hints_view, PyBUF_WRITABLE)
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
        self.t.stripe = os.getpid() % KV_READER_STRIPES
        self.table_view, self.hints_view = table_view, hints_view
        self.reads_here = reads_here
        self.attached = True

    def _detach(self):
        """Lets go of the segments. Reads answer ELSEWHERE from now on."""
        self._release()

    cdef inline bint usable(self) noexcept:
        return self.attached and self.reads_here and kv_ready(&self.t)

    @property
    def _usable(self):
        """Whether reads come from the table, and not from elsewhere."""
        return self.usable()

    @property
    def _retired(self):
        """Whether the table was given up, so that its successor must be attached."""
        return self.attached and not kv_ready(&self.t)

    cdef object _copy(self, const kv_key *key, kv_view *view):
        """The value of a key, whole: `_miss`, or `_elsewhere` if writers overtook it for ever."""
        cdef int retries
        cdef kv_status status
        cdef object value
        cdef char stack[1024]
        for retries in range(RETRIES_MAX):
            status = kv_find(&self.t, key, view)
            if status == KV_MISSING:
                return _miss
            if status == KV_CONTENDED:
                return _elsewhere
            if view.value_bytes > STACK_BYTES and not kv_view_intact(view):
                continue  # its length may be anything: do not allocate that
            if view.codec == 0:
                value = PyBytes_FromStringAndSize(<const char *>view.value, view.value_bytes)
            elif view.codec == KV_CODEC_COUNTER:
                value = kv_view_counter(view)
            elif view.codec == 1 and view.value_bytes <= STACK_BYTES:
                # Decoded from a copy: the decoder reads twice and must see the same bytes.
                memcpy(stack, view.value, view.value_bytes)
                if not kv_view_intact(view):
                    continue
                value = PyUnicode_DecodeUTF8(stack, view.value_bytes, NULL)
            else:
                value = PyBytes_FromStringAndSize(<const char *>view.value, view.value_bytes)
                if not kv_view_intact(view):
                    continue
                value = decode(view.codec, value)
            if kv_view_intact(view):
                break
        else:
            return _elsewhere
        if view.expiry_ms != 0 and view.expiry_ms <= now_ms():
            return _miss
        if kv_view_flushed(&self.t, key.shard, view):
            return _miss
        return value

    def get(self, key, default=None):
        """The value of a key.

        Args:
            key: str or bytes, 1 to 1024 bytes (a str is its UTF-8).
            default: the answer to a miss.

        Returns:
            The value as it was stored, or the default.

        Raises:
            InvalidKey: the key is of another type or length.
            ServerError: a worker had to be asked and did not answer.

        Example:
            >>> with kvserve.connect() as cache:  # doctest: +SKIP
            ...     cache.get("nobody", default="-")
            '-'
        """
        cdef kv_key k
        cdef kv_view view
        cdef object value
        if not self.usable():
            return self._get_elsewhere(key, default)
        as_key(&self.t, key, &k)
        value = self._copy(&k, &view)
        if value is _miss:
            if kv_misses_elsewhere(&self.t):
                return self._get_elsewhere(key, default)
            kv_count_read(&self.t, False)
            return default
        if value is _elsewhere:
            return self._get_elsewhere(key, default)
        kv_view_touch(&view)
        kv_count_read(&self.t, True)
        return value

    def _get_elsewhere(self, key, default):
        """What `get` answers that cannot be read here. Subclasses ask a worker."""
        return _elsewhere

    def _get_many_here(self, keys):
        """Reads many keys: (dict of the hits, list of the keys to be asked elsewhere)."""
        cdef kv_key k
        cdef kv_view view
        cdef object key, value
        cdef dict found = {}
        cdef list rest = []
        for key in keys:
            if not self.usable():
                check_key(key)
                rest.append(key)
                continue
            as_key(&self.t, key, &k)
            value = self._copy(&k, &view)
            if value is _elsewhere or (value is _miss and kv_misses_elsewhere(&self.t)):
                rest.append(key)
            elif value is _miss:
                kv_count_read(&self.t, False)
            else:
                kv_view_touch(&view)
                kv_count_read(&self.t, True)
                found[key] = value
        return found, rest

    def _gets_here(self, key):
        """(value, version), None on a miss, or ELSEWHERE.

        A counter's value and version are two cells, which only the lock's owner can read as one.
        """
        cdef kv_key k
        cdef kv_view view
        cdef object value
        if not self.usable():
            return _elsewhere
        as_key(&self.t, key, &k)
        value = self._copy(&k, &view)
        if value is _miss:
            if kv_misses_elsewhere(&self.t):
                return _elsewhere
            kv_count_read(&self.t, False)
            return None
        if value is _elsewhere or view.codec == KV_CODEC_COUNTER:
            return _elsewhere
        kv_view_touch(&view)
        kv_count_read(&self.t, True)
        return value, view.cas

    def _ttl_ms(self, key):
        """Milliseconds until a key expires, 0 if it never does, None on a miss, or ELSEWHERE."""
        cdef kv_key k
        cdef kv_view view
        cdef int retries
        cdef uint64_t now
        cdef kv_status status
        if not self.usable():
            return _elsewhere
        as_key(&self.t, key, &k)
        for retries in range(RETRIES_MAX):
            status = kv_find(&self.t, &k, &view)
            if status == KV_MISSING:
                return _elsewhere if kv_misses_elsewhere(&self.t) else None
            if status == KV_CONTENDED:
                return _elsewhere
            if not kv_view_intact(&view):
                continue
            if kv_view_flushed(&self.t, k.shard, &view):
                return None
            if view.expiry_ms == 0:
                return 0
            now = now_ms()
            return view.expiry_ms - now if view.expiry_ms > now else None
        return _elsewhere

    def _shard_of(self, key):
        """The shard that a key belongs to. Raises InvalidKey. Works after `_detach`, too."""
        cdef kv_key k
        as_key(&self.t, key, &k)
        return k.shard

    def _scan(self, uint32_t shard, uint32_t bucket, bytes prefix):
        """Some keys of a shard that begin with a prefix.

        Args:
            shard, bucket: where to go on; a scan begins with bucket 0.
            prefix: the bytes that a key must begin with.

        Returns:
            The keys, as str or bytes as they were stored, and the bucket to go on with or None at
            the shard's end. A key that is there throughout is returned at least once.
        """
        cdef kv_view view
        cdef kv_cursor cursor, before
        cdef uint64_t now = now_ms()
        cdef bytes key
        cdef list keys = []
        cdef uint32_t last
        if not self.attached or shard >= self.t.geometry.shards:
            raise IndexError(f"no shard {shard}")
        last = min(bucket + SCAN_KEYS, self.t.geometry.buckets)
        while bucket < last and <uint32_t>len(keys) < SCAN_KEYS:
            cursor.bucket = cursor.slot = cursor.steps = 0
            before = cursor
            while kv_next_in_bucket(&self.t, shard, bucket, &cursor, &view):
                key = PyBytes_FromStringAndSize(<const char *>view.key, view.key_bytes)
                if not kv_view_intact(&view):
                    cursor = before  # it moved or went while we copied: look again
                    continue
                before = cursor
                if kv_view_flushed(&self.t, shard, &view):
                    continue
                if view.expiry_ms != 0 and view.expiry_ms <= now:
                    continue
                if key.startswith(prefix):
                    keys.append(key.decode() if view.flags & KV_FLAG_TEXT_KEY else key)
            bucket += 1
        return keys, (bucket if bucket < self.t.geometry.buckets else None)

    def _shard_stats(self, uint32_t shard):
        """Counters of a shard by name."""
        cdef kv_counts counts
        if not self.attached or shard >= self.t.geometry.shards:
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
        }

    def _reads(self):
        """(hits, misses) of all readers. Readers that share a stripe may lose a few."""
        cdef uint64_t hits, misses
        kv_reads(&self.t, &hits, &misses)
        return hits, misses

    def _geometry(self):
        """The fields of the C structure, by name."""
        return dict(self.t.geometry)

    def _instance_id(self):
        """The 16 bytes that tell this table from all others."""
        cdef uint8_t identity[16]
        kv_instance_id(&self.t, identity)
        return PyBytes_FromStringAndSize(<const char *>identity, 16)


cdef class Writer(Reader):
    """Changes a table. One of its process; see `kvserve.table.table.Table`."""

    cdef kv_owner owner

    def __dealloc__(self):
        self._close_semaphores()

    def _join(self, int lease_descriptor, uint32_t slot, list semaphore_names):
        """Becomes a possible owner of the shards' locks; the caller holds the slot's record lock.

        Raises:
            ServerUnavailable: a semaphore cannot be opened.
        """
        cdef uint32_t shard
        self.owner.semaphores = <sem_t **>PyMem_Calloc(self.t.geometry.shards, sizeof(sem_t *))
        if self.owner.semaphores == NULL:
            raise MemoryError()
        for shard in range(self.t.geometry.shards):
            name = semaphore_names[shard].encode()
            self.owner.semaphores[shard] = sem_open(name, 0)
            if self.owner.semaphores[shard] == NULL:
                raise ServerUnavailable(f"semaphore {semaphore_names[shard]} cannot be opened")
        self.owner.lease = lease_descriptor
        self.owner.word = kv_join(&self.t, slot)

    cdef void _close_semaphores(self) noexcept:
        cdef uint32_t shard
        if self.owner.semaphores != NULL:
            for shard in range(self.t.geometry.shards):
                if self.owner.semaphores[shard] != NULL:
                    sem_close(self.owner.semaphores[shard])
            PyMem_Free(self.owner.semaphores)
            self.owner.semaphores = NULL

    def _leave(self):
        """Gives the semaphores back and lets go of the segments."""
        self._close_semaphores()
        self._release()

    cdef inline int lock(self, uint32_t shard) except -1:
        cdef kv_status status
        cdef uint64_t wait_ms
        if self.owner.semaphores == NULL:
            raise InternalError("this table is closed")
        if kv_try_acquire(&self.t, &self.owner, shard):
            return 0
        wait_ms = LOCK_WAIT_MS
        with nogil:
            status = kv_acquire(&self.t, &self.owner, shard, wait_ms)
        if status != KV_DONE:
            raise ServerBusy(
                f"shard {shard} is held by a process that lives but does not go on "
                f"(lease slot {kv_lock_slot(kv_lock_held(&self.t, shard))}); was it stopped?"
            )
        return 0

    cdef inline void unlock(self, uint32_t shard) noexcept:
        kv_release(&self.t, &self.owner, shard)

    def ttl_ms(self, key):
        """Milliseconds until a key expires, 0 if it never does, None on a miss."""
        ttl = self._ttl_ms(key)
        if ttl is _elsewhere:
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
        """The 16 bytes that tell this table from all others."""
        return self._instance_id()

    def reads(self):
        """(hits, misses) of all readers of the table."""
        return self._reads()

    def retire(self):
        """Gives the table up: whoever is attached lets go of it."""
        kv_retire(<uint8_t *>self.table_view.buf)

    def read(self, key):
        """(codec, payload, version) of a key, or None on a miss. Counts as a read of the key."""
        cdef kv_key k
        cdef kv_view view
        cdef int retries
        cdef bytes payload
        cdef kv_status status
        cdef bint locked = False
        as_key(&self.t, key, &k)
        for retries in range(RETRIES_MAX + 1):
            # A counter's cell and version are read as one under the lock only, and what writers
            # overtake for ever holds still there.
            if retries == RETRIES_MAX and not locked:
                self.lock(k.shard)
                locked = True
            status = kv_find(&self.t, &k, &view)
            if status == KV_MISSING:
                payload = None
                break
            if status == KV_CONTENDED or not kv_view_intact(&view):
                continue
            if view.codec == KV_CODEC_COUNTER and not locked:
                self.lock(k.shard)
                locked = True
                continue
            payload = PyBytes_FromStringAndSize(<const char *>view.value, view.value_bytes)
            if locked or kv_view_intact(&view):
                break
        else:
            payload = None
        if locked:
            self.unlock(k.shard)
        if payload is None or kv_view_flushed(&self.t, k.shard, &view) or (
                view.expiry_ms != 0 and view.expiry_ms <= now_ms()):
            kv_count_read(&self.t, False)
            return None
        kv_view_touch(&view)
        kv_count_read(&self.t, True)
        return view.codec, payload, view.cas

    cdef uint64_t _store(self, key, int codec, bytes payload, uint64_t ttl_ms,
                         kv_condition condition, uint64_t expected) except? 0:
        cdef kv_key k
        cdef kv_value v
        cdef uint64_t version = 0
        cdef kv_status status
        as_key(&self.t, key, &k)
        v.bytes = <const uint8_t *>PyBytes_AS_STRING(payload)
        v.length = <uint32_t>PyBytes_GET_SIZE(payload)
        v.codec = codec
        v.expiry_ms = expiry_after(ttl_ms)
        self.lock(k.shard)
        status = kv_store(&self.t, &k, &v, condition, expected, now_ms(), &version)
        self.unlock(k.shard)
        if status == KV_TOO_LARGE:
            raise ValueTooLarge(
                f"a value of {v.length} bytes; at most {self.t.geometry.value_bytes_max} "
                "are allowed here"
            )
        return version if status == KV_DONE else 0

    def set(self, key, int codec, bytes payload, uint64_t ttl_ms):
        """Stores a payload under a key; ttl_ms 0 never expires. Returns the new version."""
        return self._store(key, codec, payload, ttl_ms, KV_SET, 0)

    def add(self, key, int codec, bytes payload, uint64_t ttl_ms):
        """As `set`, if the key is missing; returns 0 if not."""
        return self._store(key, codec, payload, ttl_ms, KV_ADD, 0)

    def replace(self, key, int codec, bytes payload, uint64_t ttl_ms):
        """As `set`, if the key is there; returns 0 if not."""
        return self._store(key, codec, payload, ttl_ms, KV_REPLACE, 0)

    def cas(self, key, int codec, bytes payload, uint64_t ttl_ms, uint64_t version):
        """As `set`, if the key's version is this; returns 0 if not."""
        return self._store(key, codec, payload, ttl_ms, KV_CAS, version)

    def delete(self, key):
        """Removes a key; returns whether it was there."""
        cdef kv_key k
        cdef kv_status status
        as_key(&self.t, key, &k)
        self.lock(k.shard)
        status = kv_delete(&self.t, &k, now_ms())
        self.unlock(k.shard)
        return status == KV_DONE

    def touch(self, key, uint64_t ttl_ms):
        """Gives a key a new time to live, 0 for ever; returns whether it was there."""
        cdef kv_key k
        cdef kv_status status
        as_key(&self.t, key, &k)
        self.lock(k.shard)
        status = kv_touch(&self.t, &k, expiry_after(ttl_ms), now_ms())
        self.unlock(k.shard)
        return status == KV_DONE

    def incr(self, key, int64_t delta, initial, uint64_t ttl_ms):
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
                              expiry_after(ttl_ms), now_ms(), &result)
        self.unlock(k.shard)
        if status == KV_NOT_COUNTER:
            raise NotACounter("the value of this key is not an int")
        if status == KV_OVERFLOW:
            raise CounterOverflow("the sum does not fit in a signed 64-bit integer")
        if status == KV_TOO_LARGE:
            raise ValueTooLarge("this table is too small for a counter under this key")
        return result if status == KV_DONE else None

    def flush(self, uint32_t shard):
        """Ends all records of a shard at once."""
        self._check_shard(shard)
        self.lock(shard)
        kv_flush(&self.t, shard)
        self.unlock(shard)

    def sweep(self, uint32_t shard, uint32_t bucket, uint32_t buckets):
        """Collects what expired in some buckets; returns the bucket to go on with, 0 at the end."""
        self._check_shard(shard)
        self.lock(shard)
        bucket = kv_sweep(&self.t, shard, bucket, buckets, now_ms())
        self.unlock(shard)
        return bucket

    def verify(self, uint32_t shard):
        """Checks every invariant of a shard under its lock; returns what is violated, as text."""
        cdef kv_violation violations[16]
        cdef uint32_t count
        cdef uint8_t *scratch
        self._check_shard(shard)
        scratch = <uint8_t *>PyMem_Calloc(kv_verify_scratch_bytes(&self.t), 1)
        if scratch == NULL:
            raise MemoryError()
        try:
            self.lock(shard)
            count = kv_verify(&self.t, shard, scratch, violations, 16)
            self.unlock(shard)
        finally:
            PyMem_Free(scratch)
        told = [
            f"shard {shard}: V{violations[i].rule} is violated at {violations[i].where}"
            for i in range(min(count, 16))
        ]
        return told + ([f"shard {shard}: and {count - 16} more"] if count > 16 else [])

    def recover(self, slot=None):
        """Takes the locks of dead owners and mends what they left; returns how many.

        Args:
            slot: only those of the owner in this lease slot; None: of anybody.
        """
        cdef uint32_t shard
        cdef uint64_t held
        recovered = 0
        for shard in range(self.t.geometry.shards):
            held = kv_lock_held(&self.t, shard)
            if held == 0 or (slot is not None and kv_lock_slot(held) != slot):
                continue
            if kv_take_from_dead(&self.t, &self.owner, shard):
                self.unlock(shard)
                recovered += 1
        return recovered

    def _check_shard(self, uint32_t shard):
        if shard >= self.t.geometry.shards:
            raise IndexError(f"no shard {shard}")
