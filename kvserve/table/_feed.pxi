# The change feed's segment and the class FeedReader; part of _core.pyx.

FEED_CAPACITY_MIN = KV_FEED_CAPACITY_MIN

cdef tuple KIND_NAMES = (
    "pad", "begin", "gap", "flush", "set", "touch", "delete", "expire", "evict",
)
assert len(KIND_NAMES) == KV_EVENT_KINDS
assert KIND_NAMES[KV_EVENT_EVICT] == "evict" and KIND_NAMES[KV_EVENT_FLUSH] == "flush"


def feed_bytes(uint32_t rings, uint64_t capacity):
    """The size of a feed's segment: so many rings, each for `capacity` bytes of events."""
    return kv_feed_segment_bytes(rings, capacity)


def format_feed(memory, uint32_t rings, uint64_t capacity):
    """Turns a new, zeroed, writable segment of `feed_bytes` into rings without events."""
    cdef Py_buffer view
    PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE)
    try:
        if <uint64_t>view.len != kv_feed_segment_bytes(rings, capacity):
            raise InternalError("a feed's segment of another size")
        kv_feed_format(<uint8_t *>view.buf, rings, capacity)
    finally:
        PyBuffer_Release(&view)


def retire_feed(memory):
    """Marks a writable feed as given up, so that its consumers look for its successor.

    Raises:
        ForeignObject: it is no feed.
    """
    cdef Py_buffer view
    feed_rings(memory)
    PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE)
    kv_feed_retire(<uint8_t *>view.buf)
    PyBuffer_Release(&view)


def feed_rings(memory):
    """How many rings a feed has. Raises ForeignObject if it cannot be used."""
    cdef Py_buffer view
    cdef kv_feed feed
    attach_ring(memory, 0, &view, &feed)
    rings = feed.page.rings
    PyBuffer_Release(&view)
    return rings


def ring_is_open(memory, uint32_t ring):
    """Whether a ring has a producer, or had one that ended without closing it."""
    cdef Py_buffer view
    cdef kv_feed feed
    attach_ring(memory, ring, &view, &feed)
    is_open = feed.ring.closed == 0
    PyBuffer_Release(&view)
    return is_open


def mark_gap(memory, uint32_t ring):
    """Emits a gap to the ring of a producer that was killed; it must have no other producer.

    Raises:
        ForeignObject: it is damaged.
    """
    cdef Writer teller = Writer()
    teller._attach_feed(memory, ring)
    kv_feed_close(&teller.feed)


cdef int attach_ring(memory, uint32_t ring, Py_buffer *view, kv_feed *feed) except -1:
    cdef const char *wrong
    PyObject_GetBuffer(memory, view, PyBUF_SIMPLE)
    wrong = kv_feed_attach(feed, <uint8_t *>view.buf, view.len, ring)
    if wrong != NULL:
        PyBuffer_Release(view)
        raise ForeignObject(f"the change feed cannot be used: {wrong.decode()}")
    return 0


cdef class FeedReader:
    """One consumer of one ring. It takes no lock, and the producer does not know of it.

    Args:
        memory: the feed's segment; may be read-only.
        ring: a worker's number.
        from_oldest: begin with the oldest event that is left, not with the next that comes.
        prefix: bytes with which the keys of events must begin. Events without a key always pass.

    Raises:
        ForeignObject: it cannot be used.
    """

    cdef kv_feed feed
    cdef kv_feed_cursor cursor
    cdef Py_buffer view
    cdef bint attached
    cdef bytes prefix

    def __init__(self, memory, uint32_t ring, bint from_oldest=False, bytes prefix not None=b""):
        cdef kv_feed_status status = KV_FEED_OVERRUN
        self.close()
        attach_ring(memory, ring, &self.view, &self.feed)
        self.attached = True
        self.prefix = prefix
        while status == KV_FEED_OVERRUN:
            status = kv_feed_begin(&self.feed, &self.cursor, from_oldest)
        if status != KV_FEED_EVENT:
            raise damaged()

    def __dealloc__(self):
        self.close()

    cpdef close(self):
        """Lets go of the segment."""
        if self.attached:
            self.attached = False
            PyBuffer_Release(&self.view)

    @property
    def retired(self):
        """Whether the feed was given up. What is in it can still be read."""
        return self.attached and not kv_feed_ready(&self.feed)

    def read(self, Py_ssize_t max_events):
        """The next events.

        Returns:
            A list of (kind, key, version, Unix time in ms), shorter than `max_events` if there
            are no more now, and how many events were lost before the first of them, of any key.
            The key of a `flush` or `gap` is None.

        Raises:
            TableCorrupt: the ring holds something else.
        """
        cdef kv_event event
        cdef kv_feed_cursor before
        cdef kv_feed_status status
        cdef uint64_t lost = 0
        cdef bint is_first = True
        cdef list events = []
        while len(events) < max_events:
            if not self.attached:  # each time: making a row may let in finalizers and threads
                raise ClientClosed("this reader of the change feed was closed")
            before = self.cursor
            status = kv_feed_next(&self.feed, &self.cursor, &event)
            if status == KV_FEED_DAMAGED:
                raise damaged()
            if status != KV_FEED_EVENT:
                break
            if event.lost != 0:
                if not is_first:
                    self.cursor = before  # the next call will find and report it
                    break
                lost = event.lost
            is_first = False
            if self.wants(&event):
                events.append((KIND_NAMES[<int>event.kind], key_of(&event), event.version,
                               event.unix_ms))
        return events, lost

    cdef inline bint wants(self, const kv_event *event) noexcept:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.prefix)
        if event.key_bytes == 0:
            return True
        return (<Py_ssize_t>event.key_bytes >= size and
                memcmp(event.key, PyBytes_AS_STRING(self.prefix), size) == 0)


cdef inline object key_of(const kv_event *event):
    if event.key_bytes == 0:
        return None
    if event.flags & KV_FLAG_TEXT_KEY:
        return PyUnicode_DecodeUTF8(<const char *>event.key, event.key_bytes, NULL)
    return PyBytes_FromStringAndSize(<const char *>event.key, event.key_bytes)


cdef object damaged():
    return TableCorrupt("the change feed is damaged; a restart of the server makes a new one")
