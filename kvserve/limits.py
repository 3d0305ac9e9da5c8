"""Every bound of kvserve, each with its reason, and the relations between them, asserted."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# Keys and values.
KEY_BYTES_MAX = 1024  # memcached allows 250, Redis 512 MiB; a hashed key never needs more
VALUE_BYTES_DEFAULT = MIB  # memcached's default, which users know
ARRAY_DIMENSIONS_MAX = 32  # as many as every numpy has
VALUE_BYTES_MAX = 64 * MIB  # a frame is buffered whole, on both sides
VALUE_DEPTH_MAX = 1024  # containers in containers; as deep as msgpack itself goes
KEY_TUPLES_MAX = 16  # tuples in tuples of a dict's key: hashing takes stack for each level
TTL_MS_MAX = 100 * 366 * 86_400_000  # a century; anything longer is a mistaken unit
LIFE_MS_KEPT = 2**64 - 1  # in place of a ttl: the value before had one, which is kept
COUNTER_MIN = -(2**63)
COUNTER_MAX = 2**63 - 1
TAGS_MAX = 15  # of a value: a hit looks for each tag's record, and takes longer by up to a half
SLIDING_HITS_MAX = 10_000  # 8 bytes a hit; each hit writes all of them anew

# The table.
MEMORY_BYTES_DEFAULT = 48 * MIB  # fits Docker's 64 MiB /dev/shm and leaves room for others
MEMORY_BYTES_MIN = 16 * KIB
MEMORY_BYTES_MAX = 1024 * 1024 * MIB
ITEM_BYTES_DEFAULT = 128  # the expected average of key and value together
ITEM_BYTES_MIN = 8
SHARDS_MAX = 256  # 8 of the hash's bits; 64 MiB each makes 16 GiB before shards grow
SHARD_BYTES_WANTED = 32 * MIB  # recounting a dead writer's shard must stay far below 100 ms
SHARD_RECORDS_MIN = 512  # fewer records in a shard cost hit ratio
SHARD_LARGEST_RECORDS_MIN = 16  # as many of the largest record, for the same reason
VERSIONS_A_MILLISECOND = 1024  # a new table's versions begin at the Unix time in ms times this
VERSIONS_UNSEEN = MIB  # versions that writers may use up while the old table is replaced
VERSION_TABLE_END = 2**52  # versions of values outside the table are above, and below JSON's 2^53
VERSION_FIRST_MAX = VERSION_TABLE_END - 2**50  # from 2074 on all tables begin here
LEASE_SLOTS = 256  # processes that may hold a shard's lock: parent, workers, trusted writers
LEASE_SLOT_PARENT = 0
LEASE_SLOT_WORKER_FIRST = 1
LEASE_SLOT_WRITER_FIRST = 65

# The server.
WORKERS_MAX = 64
WORKERS_DEFAULT_MAX = 4  # more only pays when most requests miss
SESSIONS_MAX = 4096  # clients of a worker; each costs it two descriptors
CONFIG_FILE_BYTES_MAX = 256 * KIB  # kvserve.toml has 6 KiB with all comments; more is another file
STOP_SECONDS = 10.0  # term, wait, kill
RESPAWNS_A_MINUTE = 120  # of one worker, at once; each takes 10 ms, so 2 % of a core
RESPAWN_PACE_SECONDS = 0.5  # between further ones: as many a minute; requests get their chance

WRITERS_MAX = 64  # each costs a ring of the change feed, and they compete for the shards' locks

# Requests.
QUEUE_MESSAGE_BYTES = 8 * KIB  # fs.mqueue.msgsize_max's default
QUEUE_MESSAGE_BYTES_MIN = KIB  # a greeting must fit; longer frames go through the FIFO
QUEUE_DEPTH = 64
QUEUE_DEPTH_MIN = 2
FRAME_OVERHEAD_BYTES = 256  # everything in a frame but the key and the value
FRAME_BYTES_MIN = 8 * MIB  # room for a batch even where values are small
BATCH_OPERATIONS_MAX = 16_384
MANY_KEYS_MAX = 2048  # in one frame: room for a list is made before its elements come
DELETE_SCANNED_KEYS = 4096  # of a prefix or a pattern, removed at a time: found in a few ms
UPDATE_ATTEMPTS_MAX = 1000  # at a key that others change all the time: about 25 s of pauses
MANY_KEYS_BYTES = MANY_KEYS_MAX * (KEY_BYTES_MAX + 16)  # all of a frame except values
BATCH_REPLY_BYTES = 4 * MIB  # a worker sends a longer reply in parts
REPLY_BUFFER_BYTES = 64 * MIB  # unread replies of a client, beyond which it is refused more
REFUSALS_MAX = 1000  # in a row; a client that reads nothing then is cut off
WORKER_REQUEST_BYTES_MAX = 96 * MIB  # requests still arriving from all clients; the next ones wait
WORKER_REPLY_BYTES_SHORT = 80 * MIB  # unread by all: the client with most is refused more
WORKER_REPLY_BYTES_MAX = 160 * MIB  # and beyond this it is cut off
ARRIVAL_SECONDS = 2.0  # a request may take so long to arrive while others wait for its room
ARRIVAL_STALL_SECONDS = 0.25  # without a byte: a sender that has a processor takes a millisecond
ARRIVAL_BYTES_A_SECOND = MIB  # a slower sender is trickling to hold its room
ARRIVAL_FREE_SHARE = (
    4  # a request may take a quarter of what is free, so that smaller ones find some
)
ARRIVAL_AGED_SECONDS = 0.5  # after so long a wait the smaller ones leave room for it
ARRIVAL_LOOK_SECONDS = 0.02  # how often arrivals are checked; 96 MiB each time is enough
ARRIVAL_FRAMES = 3  # there is room for at least so many of the longest requests
SHORT_REPLY_BYTES = 4 * KIB  # packed at once: keeping its unpacked answer would take as much
PACKED_BYTES_MIN = 16 * MIB  # of long replies, for several of the longest at once
REPLY_LOOK_SECONDS = 0.5  # within this a client with unread replies must read
REPLY_BYTES_A_LOOK = 64 * KIB  # so much of them, while others need the memory
LONG_REQUESTS_MAX = 8  # executed in turns; further ones wait, not unpacked yet
TIMEOUT_SECONDS_DEFAULT = 2.0
TIMEOUT_SECONDS_MAX = 86_400.0
LOCK_WAIT_MS = 1000  # a writer that waits longer raises ServerBusy

# A worker's memory for requests and replies in progress, see execution/budget.py.
BUFFER_SHARE = 4  # a quarter of the table's memory, unless another size is configured
BUFFER_BYTES_MIN = 4 * MIB  # one batch's reply must fit
REQUEST_BYTES = 4 * KIB  # of a request in a worker beside its frame: its task, its futures
OPERATION_BYTES = 512  # of each operation in a batch
ENTRY_OVERHEAD_BYTES = 192  # of a key in a dictionary, beside its length
WRITE_OVERHEAD_BYTES = 384  # of a write that waits for the store, beside key and value
BEHIND_SHARE = 4  # of the buffer's memory a quarter at most is for writes that wait for the store,
NEGATIVE_CACHE_SHARE = 16  # a 16th for keys that the store does not have,
STORE_SHARE = 4  # a quarter for copies on their way to the store, and one for values from there
LOAD_SHARE = 16  # a load counts for at least a 16th of the largest value: the next may be larger
TRIM_BYTES = 4 * MIB  # after so much was in use, the allocator must return memory to the system
TRIM_TICKS = 7  # once less than that has been in use for a second

# Other settings.
STORE_URL_BYTES_MAX = 1024  # one page of memory holds all settings twice
STORE_TIMEOUT_SECONDS_MIN = 0.01  # with less a healthy database looks dead
STORE_TIMEOUT_SECONDS_MAX = 3600.0
WRITE_BEHIND_SECONDS_MAX = 3600.0  # a crash loses the writes of this time
NEGATIVE_TTL_SECONDS_MAX = 86_400.0
STALENESS_SECONDS_MIN = 0.1  # several heartbeats must fit into it
STALENESS_SECONDS_MAX = 3600.0
FEED_BYTES_DEFAULT = MIB  # a worker's ring: some ten thousand events
FEED_BYTES_MIN = 16 * KIB  # several events of the longest key
FEED_BYTES_MAX = 1024 * MIB
SPIN_MICROSECONDS_DEFAULT = 50  # about what it takes to wake another core
SPIN_MICROSECONDS_MAX = 1000  # beyond this, sleeping costs less than it saves

# Notes of what other users' readers have read, a file of 36 KiB each; see worker/notes.py.
NOTES_STEP_SECONDS = 0.001  # of each tick, for as many files as fit into it
NOTES_FILES_MAX = 1024  # a worker remembers so many, 4 KiB each
NOTES_OLDER_FILES_MAX = 4 * SESSIONS_MAX  # names that a worker looks through before it serves
NOTES_AGE_SECONDS = 10.0  # then a file that is incomplete and unlocked is removed

# What a worker does by the clock.
TICK_SECONDS = 0.15  # it checks the settings, which it applies within 0.2 s, and sweeps
SWEEP_SHARE = 66  # one 66th of the buckets at each tick: a whole pass in 10 s
SWEEP_STEP_SECONDS = 0.0005  # then waiting requests are served before it goes on

# The log. A client can cause lines of many kinds as often as it likes.
LOG_LINES_AT_ONCE = 20  # of one kind
LOG_LINES_A_SECOND = 1.0  # after those
LOG_QUIET_SECONDS = 1.0  # then it logs how many of a kind were left out

# How long a request may keep a worker from others.
SLICE_SECONDS = 0.002  # of a long one; then the others have their turn
SLICE_OPERATIONS = 16  # between two readings of the clock: the costliest one takes 0.2 ms


def frame_bytes_max(value_bytes_max: int) -> int:
    """The longest frame of an instance, in bytes, given its largest value in bytes."""
    return max(FRAME_BYTES_MIN, value_bytes_max + KEY_BYTES_MAX + FRAME_OVERHEAD_BYTES)


def arrival_bytes(value_bytes_max: int) -> int:
    """A worker's room for requests that are still arriving, in bytes."""
    return max(WORKER_REQUEST_BYTES_MAX, ARRIVAL_FRAMES * frame_bytes_max(value_bytes_max))


def buffer_bytes(memory_bytes: int, value_bytes_max: int) -> int:
    """A worker's memory for requests in progress if none is configured, in bytes.

    The longest frame must fit beside others, however small the table is.
    """
    return max(memory_bytes // BUFFER_SHARE, frame_bytes_max(value_bytes_max))


assert LEASE_SLOT_WORKER_FIRST + WORKERS_MAX <= LEASE_SLOT_WRITER_FIRST
assert LEASE_SLOT_WRITER_FIRST + WRITERS_MAX <= LEASE_SLOTS
assert WORKERS_MAX <= SHARDS_MAX
assert VALUE_BYTES_DEFAULT <= VALUE_BYTES_MAX
assert MANY_KEYS_BYTES < FRAME_BYTES_MIN // 2
assert BATCH_REPLY_BYTES < FRAME_BYTES_MIN
assert BATCH_REPLY_BYTES <= BUFFER_BYTES_MIN
assert 1 / BEHIND_SHARE + 1 / NEGATIVE_CACHE_SHARE + 2 / STORE_SHARE < 1  # the rest is for requests
# A client within its own bounds never reaches the bounds for all clients.
assert frame_bytes_max(VALUE_BYTES_MAX) <= WORKER_REQUEST_BYTES_MAX
assert REPLY_BUFFER_BYTES <= WORKER_REPLY_BYTES_SHORT < WORKER_REPLY_BYTES_MAX
assert (
    REPLY_BUFFER_BYTES + frame_bytes_max(VALUE_BYTES_MAX) + BATCH_REPLY_BYTES
    <= WORKER_REPLY_BYTES_MAX
)
