"""Every bound of kvserve, each with its reason, and the relations between them, asserted."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# Keys and values.
KEY_BYTES_MAX = 1024  # memcached allows 250, Redis 512 MiB; a hashed key never needs more
VALUE_BYTES_DEFAULT = MIB  # memcached's default, which users know
VALUE_BYTES_MAX = 64 * MIB  # a frame is buffered whole, on both sides
TTL_MS_MAX = 100 * 366 * 86_400_000  # a century; anything longer is a unit mistaken
COUNTER_MIN = -(2**63)
COUNTER_MAX = 2**63 - 1
SLIDING_HITS_MAX = 10_000  # 8 bytes a hit, all written anew at each

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
VERSIONS_A_MILLISECOND = 1024  # a new table's versions begin at so many for each of Unix time
VERSIONS_UNSEEN = MIB  # what writers may give out while the table before it is replaced
VERSION_TABLE_END = 2**52  # those of values beside the table are above, and below JSON's 2^53
VERSION_FIRST_MAX = VERSION_TABLE_END - 2**50  # from 2074 on all begin here
LEASE_SLOTS = 256  # processes that may hold a shard's lock: parent, workers, trusted writers
LEASE_SLOT_PARENT = 0
LEASE_SLOT_WORKER_FIRST = 1
LEASE_SLOT_WRITER_FIRST = 65

# The server.
WORKERS_MAX = 64
WORKERS_DEFAULT_MAX = 4  # more only pays when most requests miss
SESSIONS_MAX = 4096  # a worker's clients; each costs it two descriptors
STOP_SECONDS = 10.0  # term, wait, kill

WRITERS_MAX = 64  # each costs a ring of the change feed, and they fight for the shards' locks

# Requests.
QUEUE_MESSAGE_BYTES = 8 * KIB  # fs.mqueue.msgsize_max's default
QUEUE_MESSAGE_BYTES_MIN = KIB  # a frame with the longest key must fit, see below
QUEUE_DEPTH = 64
QUEUE_DEPTH_MIN = 2
FRAME_OVERHEAD_BYTES = 256  # everything in a frame but the key and the value
FRAME_BYTES_MIN = 8 * MIB  # room for a batch even where values are small
BATCH_OPERATIONS_MAX = 16_384
MANY_KEYS_MAX = 2048  # in one frame: room for a list is made before its elements come
MANY_KEYS_BYTES = MANY_KEYS_MAX * (KEY_BYTES_MAX + 16)  # what all of a frame but values may take
BATCH_REPLY_BYTES = 4 * MIB  # a worker answers a longer batch in parts
REPLY_BUFFER_BYTES = 64 * MIB  # replies that a client may leave unread before it is refused more
REFUSALS_MAX = 1000  # in a row; a client that reads nothing then is cut off
WORKER_REQUEST_BYTES_MAX = 96 * MIB  # requests still arriving from all clients; the next ones wait
WORKER_REPLY_BYTES_SHORT = 80 * MIB  # replies unread by all: who holds most is refused more
WORKER_REPLY_BYTES_MAX = 160 * MIB  # and here is cut off
ARRIVAL_SECONDS = 2.0  # that a request may take to arrive while others wait for its room
ARRIVAL_LOOK_SECONDS = 0.02  # how often these are looked after; 96 MiB each time is enough
TIMEOUT_SECONDS_DEFAULT = 2.0
TIMEOUT_SECONDS_MAX = 86_400.0
LOCK_WAIT_MS = 1000  # a writer that waits longer answers ServerBusy

# Settings that are no sizes of the above.
STORE_URL_BYTES_MAX = 1024  # one page of memory holds all settings twice
STORE_TIMEOUT_SECONDS_MIN = 0.01  # less, and a healthy database looks dead
STORE_TIMEOUT_SECONDS_MAX = 3600.0
WRITE_BEHIND_SECONDS_MAX = 3600.0  # a crash loses the writes of so long
ABSENCE_SECONDS_MAX = 86_400.0
STALENESS_SECONDS_MIN = 0.1  # several heartbeats must fit in
STALENESS_SECONDS_MAX = 3600.0
FEED_BYTES_DEFAULT = MIB  # a worker's ring: some ten thousand events
FEED_BYTES_MIN = 16 * KIB  # several events of the longest key
FEED_BYTES_MAX = 1024 * MIB
SPIN_MICROSECONDS_DEFAULT = 50  # about what it takes to wake another core
SPIN_MICROSECONDS_MAX = 1000  # beyond this, sleeping costs less than it saves

# What readers of other users have read, each in a file of 36 KiB; see worker/notes.py.
NOTES_STEP_SECONDS = 0.001  # of each tick, for as many files as it is enough for
NOTES_FILES_MAX = 1024  # that a worker remembers, 4 KiB each
NOTES_OLDER_MAX = 4 * SESSIONS_MAX  # names that a worker looks through before it serves
NOTES_AGE_SECONDS = 10.0  # a file that is not whole, and that nobody locks, is removed then

# What a worker does without being asked.
TICK_SECONDS = 0.15  # looks at the settings, which it applies within 0.2 s, and sweeps
SWEEP_SHARE = 66  # one 66th of the buckets at each tick: a whole pass in 10 s
SWEEP_STEP_SECONDS = 0.0005  # then whoever waits is served before it goes on


def frame_bytes_max(value_bytes_max: int) -> int:
    """The longest frame of an instance, in bytes, given its largest value in bytes."""
    return max(FRAME_BYTES_MIN, value_bytes_max + KEY_BYTES_MAX + FRAME_OVERHEAD_BYTES)


assert LEASE_SLOT_WORKER_FIRST + WORKERS_MAX <= LEASE_SLOT_WRITER_FIRST
assert LEASE_SLOT_WRITER_FIRST + WRITERS_MAX <= LEASE_SLOTS
assert WORKERS_MAX <= SHARDS_MAX
assert VALUE_BYTES_DEFAULT <= VALUE_BYTES_MAX
assert MANY_KEYS_BYTES < FRAME_BYTES_MIN // 2
assert BATCH_REPLY_BYTES < FRAME_BYTES_MIN
# One client within its own bounds never meets those of all.
assert frame_bytes_max(VALUE_BYTES_MAX) <= WORKER_REQUEST_BYTES_MAX
assert REPLY_BUFFER_BYTES <= WORKER_REPLY_BYTES_SHORT < WORKER_REPLY_BYTES_MAX
assert (
    REPLY_BUFFER_BYTES + frame_bytes_max(VALUE_BYTES_MAX) + BATCH_REPLY_BYTES
    <= WORKER_REPLY_BYTES_MAX
)
