"""The bounds: the relations between them that other modules rely on."""

from __future__ import annotations

from kvserve import limits
from kvserve.protocol import codec, commands
from kvserve.protocol.messages import PROTOCOL_VERSION, Request

LONGEST_KEY = b"k" * limits.KEY_BYTES_MAX
LARGEST_ID = 2**64 - 1
UNITS = {"BYTES", "MS", "SECONDS", "MICROSECONDS", "KIB", "MIB"}
COUNTED = {
    "DIMENSIONS",
    *("SHARDS", "RECORDS", "SLOT", "SLOTS", "WORKERS", "WRITERS", "SESSIONS", "DEPTH", "HITS"),
    *("OPERATIONS", "KEYS", "REFUSALS", "COUNTER", "SHARE", "TUPLES", "VERSIONS", "VERSION"),
    *("RESPAWNS", "FRAMES", "REQUESTS", "TICKS", "FILES", "LINES"),
}


def test_overhead_of_a_frame_covers_everything_but_key_and_value() -> None:
    payload = bytes(limits.VALUE_BYTES_DEFAULT)
    arguments = (LONGEST_KEY, codec.BYTES, payload, limits.TTL_MS_MAX, LARGEST_ID)
    frame = Request(LARGEST_ID, LARGEST_ID, commands.CAS, LARGEST_ID, arguments).encode()
    assert len(frame) - len(LONGEST_KEY) - len(payload) <= limits.FRAME_OVERHEAD_BYTES


def test_smallest_queue_message_carries_what_must_go_through_a_queue() -> None:
    """The greeting, which comes before there is a FIFO; longer requests may go through that."""
    greeting = (PROTOCOL_VERSION, LARGEST_ID)
    frame = Request(LARGEST_ID, LARGEST_ID, commands.HELLO, LARGEST_ID, greeting).encode()
    assert len(frame) <= limits.QUEUE_MESSAGE_BYTES_MIN <= limits.QUEUE_MESSAGE_BYTES


def test_frame_grows_with_the_largest_value() -> None:
    assert limits.frame_bytes_max(1) == limits.FRAME_BYTES_MIN
    largest = limits.frame_bytes_max(limits.VALUE_BYTES_MAX)
    assert largest > limits.VALUE_BYTES_MAX + limits.KEY_BYTES_MAX
    assert largest < 2**32  # its length must fit in the stream's four bytes


def test_every_slot_of_the_lease_file_has_one_use() -> None:
    workers = range(
        limits.LEASE_SLOT_WORKER_FIRST, limits.LEASE_SLOT_WORKER_FIRST + limits.WORKERS_MAX
    )
    first = limits.LEASE_SLOT_WRITER_FIRST
    writers = range(first, first + limits.WRITERS_MAX)
    assert writers.stop <= limits.LEASE_SLOTS
    assert limits.LEASE_SLOT_PARENT not in workers
    assert not set(workers) & set(writers)
    assert len(writers) > 0


def test_defaults_are_within_their_bounds() -> None:
    assert limits.MEMORY_BYTES_MIN <= limits.MEMORY_BYTES_DEFAULT <= limits.MEMORY_BYTES_MAX
    assert limits.ITEM_BYTES_MIN <= limits.ITEM_BYTES_DEFAULT <= limits.VALUE_BYTES_DEFAULT
    assert limits.QUEUE_DEPTH_MIN <= limits.QUEUE_DEPTH
    assert limits.WORKERS_DEFAULT_MAX <= limits.WORKERS_MAX
    assert limits.TIMEOUT_SECONDS_DEFAULT <= limits.TIMEOUT_SECONDS_MAX


def test_every_bound_names_its_unit_or_what_it_counts() -> None:
    """A bound is a plain number, so its name must say of what."""
    bounds = [name for name, value in vars(limits).items() if isinstance(value, (int, float))]
    assert len(bounds) > 60
    assert [name for name in bounds if not set(name.split("_")) & (UNITS | COUNTED)] == []
