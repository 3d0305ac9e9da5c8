"""The thin skin over the C core: Python objects in, Python objects out, no decisions.

`Reader` reads without a lock and needs the table mapped read-only. `Owner` may hold the shards'
locks, and `Writer` changes the table inside them. No Python code runs inside such a lock: a
finalizer or a signal handler could come back in and wait for itself. `TrustedWriter` is the short
path of a client that has a Writer; only there are values more than payloads.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_DecodeUTF8
from libc.math cimport rint
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport clock_gettime
from posix.unistd cimport getpid

from kvserve._descriptors cimport forks

from collections.abc import Iterable

from kvserve.errors import (
    ClientClosed,
    CounterOverflow,
    ForeignObject,
    InternalError,
    InvalidArgument,
    InvalidKey,
    InvalidTTL,
    MisuseError,
    NotACounter,
    ServerBusy,
    ServerUnavailable,
    TableCorrupt,
    UnreadableValue,
    ValueTooLarge,
    WrongWorker,
)
from kvserve.limits import (
    KEY_BYTES_MAX,
    LEASE_SLOTS,
    LIFE_MS_KEPT as LIFE_KEPT,
    LOCK_WAIT_MS,
    SHARDS_MAX,
    TTL_MS_MAX,
    WORKERS_MAX,
    WRITERS_MAX,
)
from kvserve.protocol import codec

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef extern from *:  # Cython's own; where a Python has no such function it is PyDict_New
    dict new_dict "__Pyx_PyDict_NewPresized" (Py_ssize_t size)

cdef extern from "<time.h>" nogil:
    int CLOCK_BOOTTIME
    int CLOCK_MONOTONIC_COARSE
    int CLOCK_REALTIME_COARSE
    int CLOCK_REALTIME

assert KEY_BYTES_MAX == KV_KEY_BYTES_MAX
assert WORKERS_MAX == KV_WORKERS_MAX
assert SHARDS_MAX == KV_SHARDS_MAX
assert LEASE_SLOTS == KV_LEASE_SLOTS
assert WORKERS_MAX + WRITERS_MAX == KV_FEED_RINGS_MAX
assert codec.BYTES == KV_CODEC_BYTES
assert codec.TEXT == KV_CODEC_TEXT
assert codec.COUNTER == KV_CODEC_COUNTER

LAYOUT_VERSION = KV_LAYOUT_VERSION
LAYOUT = {
    "superblock_bytes": KV_SUPERBLOCK_BYTES,
    "hints_header_bytes": KV_HINTS_HEADER_BYTES,
    "notes_bytes": sizeof(kv_notes),
    "shard_header_bytes": KV_SHARD_HEADER_BYTES,
    "record_header_bytes": KV_RECORD_HEADER_BYTES,
    "expiry_bytes": KV_EXPIRY_BYTES,
    "line_bytes": KV_LINE,
    "alignment_bytes": KV_ALIGNMENT,
    "bucket_bytes": KV_BUCKET_BYTES,
    "bucket_entries": KV_BUCKET_ENTRIES,
    "hints_a_bucket": KV_HINTS_A_BUCKET,
    "ghost_tags": KV_GHOST_TAGS,
}


class LeaseLost(ServerBusy):
    """The lease that a writer borrowed is not there any more. Nothing was changed: its client takes
    another lease, or raises why there is none."""


class AskWorker:
    """What a read returns that must ask a worker. There is one: `ASK_WORKER`."""

    def __repr__(self):
        return "kvserve.ASK_WORKER"

    def __reduce__(self):
        return "ASK_WORKER"


cdef object _ask_worker = AskWorker()
cdef object _miss = object()
ASK_WORKER = _ask_worker

cdef uint64_t LIFE_MS_KEPT = LIFE_KEPT
cdef int RETRIES_MAX = 64
cdef Py_ssize_t PRESIZED_MAX = 4096  # beyond this, few hits among many keys would waste memory
cdef uint32_t SCAN_KEYS = 512  # about how many keys one scan returns
cdef enum:
    STACK_BYTES = 1024  # a value up to this length is copied there first
    KEYS_AHEAD = 16  # as many as a core can fetch lines for at a time; half or twice is no quicker
cdef uint64_t FEED_CLOCK_MS = 100  # events carry the machine's clock, which may be set
cdef uint64_t COARSE_CLOCK_LAG_MS = 10  # a tick of the slowest kernels, 100 a second


cdef inline uint64_t clock_ns(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec


cdef inline uint64_t clock_ms(int clock) noexcept nogil:
    return clock_ns(clock) // 1_000_000


cdef inline uint64_t now_ms() noexcept nogil:
    """The clock of all expiries: it counts through suspend, and does not jump."""
    return clock_ms(CLOCK_BOOTTIME)


cdef inline uint64_t life_left(uint64_t expiry_ms) noexcept nogil:
    """Milliseconds until a live record expires, 0 for ever. It may have expired a moment ago."""
    cdef uint64_t now
    if expiry_ms == 0:
        return 0
    now = now_ms()
    return expiry_ms - now if expiry_ms > now else 1


cdef inline uint64_t expiry_after(uint64_t ttl_ms) noexcept nogil:
    return now_ms() + ttl_ms if ttl_ms else 0


cdef inline int borrow_key(object key, kv_key *out) except -1:
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
    return 0


cdef inline int as_key(const kv_table *t, object key, kv_key *out) except -1:
    """Borrows the key's bytes, as `borrow_key` does, and finds its shard."""
    borrow_key(key, out)
    kv_locate(t, out)
    return 0


cdef inline bint may_not_fit(key):
    """Whether a key is perhaps too long, or looks like what replaces such a key."""
    if PyUnicode_CheckExact(key) and PyUnicode_IS_ASCII(key):
        return PyUnicode_GET_LENGTH(key) >= KV_KEY_BYTES_MAX
    if PyBytes_CheckExact(key):
        return PyBytes_GET_SIZE(key) >= KV_KEY_BYTES_MAX
    return True


cdef inline bint is_packed(const kv_view *view) noexcept nogil:
    """Whether the copy is still a payload, as all are but bytes, counters and short texts."""
    if view.codec == KV_CODEC_TEXT:
        return view.value_bytes > STACK_BYTES
    return view.codec != KV_CODEC_BYTES and view.codec != KV_CODEC_COUNTER


def check_key(key):
    """Raises InvalidKey unless `key` is a str or bytes of 1 to 1024 bytes."""
    cdef kv_key unused
    borrow_key(key, &unused)


cpdef check_keys(keys):
    """Returns the keys themselves.

    Raises:
        InvalidArgument: they are one key, whose letters would be taken for keys, or not iterable.
    """
    if not isinstance(keys, list) and (
        isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable)
    ):
        raise InvalidArgument(f"keys = {keys!r:.80}: use a list of keys")
    return keys


def format_segment(table, dict geometry, bytes boot_id, bytes instance_id, bytes hash_key,
                   uint64_t last_version=0):
    """Turns a new, zeroed segment into an empty table, ready for use.

    Args:
        table: a writable buffer of the geometry's size.
        geometry: the fields of the C structure, by name.
        boot_id, instance_id: 16 bytes each.
        hash_key: 32 random bytes.
        last_version: the first record gets the version after this one.
    """
    cdef kv_geometry g
    cdef Py_buffer view
    cdef uint64_t secret[4]
    g = geometry
    if not kv_geometry_valid(&g):
        raise InternalError(f"a geometry that makes no sense: {geometry}")
    assert len(boot_id) == 16 and len(instance_id) == 16 and len(hash_key) == 32
    memcpy(secret, PyBytes_AS_STRING(hash_key), 32)
    PyObject_GetBuffer(table, &view, PyBUF_WRITABLE)
    try:
        assert <uint64_t>view.len == g.table_bytes
        kv_format(<uint8_t *>view.buf, &g, boot_id, instance_id, secret, last_version)
    finally:
        PyBuffer_Release(&view)


def last_version(table):
    """The highest version that a table's segment has given out; 0 if that cannot be read.

    The table may be retired, damaged, or of the layout before this one.
    """
    cdef Py_buffer view
    cdef uint64_t last
    PyObject_GetBuffer(table, &view, PyBUF_SIMPLE)
    last = kv_last_version(<const uint8_t *>view.buf, view.len)
    PyBuffer_Release(&view)
    return last


def retire_segment(table):
    """Marks a writable table segment as given up, so that attached processes let go of it."""
    cdef Py_buffer view
    PyObject_GetBuffer(table, &view, PyBUF_WRITABLE)
    if <uint64_t>view.len >= KV_SUPERBLOCK_BYTES:
        kv_retire(<uint8_t *>view.buf)
    PyBuffer_Release(&view)


# One extension in several files: one compilation unit, so that calls between the classes are
# inlined.
include "_attached.pxi"
include "_scanner.pxi"
include "_reader.pxi"
include "_namespaces.pxi"
include "_owner.pxi"
include "_writer.pxi"
include "_trusted.pxi"
include "_feed.pxi"
