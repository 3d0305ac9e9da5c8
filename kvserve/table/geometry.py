"""How a given amount of memory becomes shards, buckets and logs. Arithmetic only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kvserve import limits
from kvserve.errors import ConfigError
from kvserve.table._core import LAYOUT

_ALIGNMENT_BYTES = LAYOUT["alignment_bytes"]
_SMALL_SHARE = 10  # S takes a tenth of the logs, as S3-FIFO found best
_LOAD_PERCENT = 65  # of the home buckets' entries; with a sixth more buckets for overflow
_OVERFLOW_SHARE = 6
_OVERFLOW_MIN = 8  # few buckets are filled less evenly
_LARGEST_SHARE = 8  # the largest record may take this part of log M
_OPTIMISM = 64  # how many buckets an estimate of the index may be off, see _fill


def _round_up(size_bytes: int, unit_bytes: int) -> int:
    return -(-size_bytes // unit_bytes) * unit_bytes


def record_bytes(key_and_value_bytes: int) -> int:
    """The bytes of a log that an item of this size takes, if it never expires; 8 more if it does.

    Example:
        >>> record_bytes(112)
        128
    """
    return _round_up(LAYOUT["record_header_bytes"] + key_and_value_bytes, _ALIGNMENT_BYTES)


def _expiring_record_bytes(key_and_value_bytes: int) -> int:
    return record_bytes(key_and_value_bytes) + LAYOUT["expiry_bytes"]


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes that decide where everything lies; the fields of the C structure.

    All are bytes, or numbers of things in one shard.
    """

    table_bytes: int
    hints_bytes: int
    shard_bytes: int
    small_capacity: int
    main_capacity: int
    largest_record: int
    value_bytes_max: int
    item_bytes: int
    shards: int
    buckets: int
    overflow: int
    ghost_lines: int

    @property
    def memory_bytes(self) -> int:
        """All shared memory of the table and its hints."""
        return self.table_bytes + self.hints_bytes

    @property
    def log_bytes(self) -> int:
        """What all records together can take, if none is longer than an expected one."""
        return self.shards * (self.small_capacity + self._main_bytes)

    @property
    def _main_bytes(self) -> int:
        """What log M can hold: it keeps room for two records as long as its longest."""
        return self.main_capacity - 2 * min(record_bytes(self.item_bytes), self.largest_record)

    @property
    def capacity_items(self) -> int:
        """How many items of the expected size fit."""
        record = record_bytes(self.item_bytes)
        return self.shards * (self.small_capacity // record + self._main_bytes // record)


def plan(memory: int, item_size: int, max_value: int, shards: int, workers: int) -> Geometry:
    """The geometry for these settings.

    Args:
        memory: bytes for table and hints together.
        item_size: expected average of key and value together, in bytes.
        max_value: the largest value wanted, in bytes; lowered to what a shard allows.
        shards: how many, or 0 to choose; lowered to what leaves each a sensible size.
        workers: how many there will be; at least as many shards are chosen, if possible.

    Raises:
        ConfigError: the memory is too small for the items.

    Example:
        >>> plan(48 * 2**20, 128, 2**20, shards=0, workers=2).shards
        2
    """
    if shards == 0:
        shards = _choose_shards(memory, item_size, max_value, workers)
    while True:
        geometry = _fill(memory, item_size, max_value, shards)
        if geometry is not None:
            return geometry
        if shards == 1:
            raise ConfigError(
                f"memory = {memory} bytes cannot hold items of {item_size} bytes; raise it"
            )
        shards = shards // 2


def _choose_shards(memory: int, item_size: int, max_value: int, workers: int) -> int:
    """A power of two: small enough shards to recover quickly, large enough to evict well."""
    largest = _expiring_record_bytes(limits.KEY_BYTES_MAX + max_value)
    comfortable_bytes = max(
        limits.SHARD_LARGEST_RECORDS_MIN * largest,
        limits.SHARD_RECORDS_MIN * record_bytes(item_size),
    )
    shards = 1
    while (
        shards < limits.SHARDS_MAX
        and memory // (shards * 2) >= comfortable_bytes
        and memory // shards > limits.SHARD_BYTES_WANTED
    ):
        shards *= 2
    # A worker without a shard would be idle: go below comfort for that, but not below need.
    needed_bytes = max(
        2 * _LARGEST_SHARE * largest * 10 // 16, limits.SHARD_RECORDS_MIN * record_bytes(item_size)
    )
    while shards < workers and memory // (shards * 2) >= needed_bytes:
        shards *= 2
    return shards


def _fill(memory: int, item_size: int, max_value: int, shards: int) -> Geometry | None:
    """The largest geometry of so many shards within the memory; None if that holds nothing."""
    line = LAYOUT["line_bytes"]
    fixed = LAYOUT["superblock_bytes"] + LAYOUT["hints_header_bytes"]
    shard_budget = (memory - fixed) // shards - LAYOUT["shard_header_bytes"]
    record = record_bytes(item_size)
    items = max(1, shard_budget // record)
    while items > 0:
        buckets = max(1, items * 100 // (LAYOUT["bucket_entries"] * _LOAD_PERCENT))
        overflow = max(_OVERFLOW_MIN, buckets // _OVERFLOW_SHARE)
        ghost_lines = max(1, -(-items * 9 // (10 * LAYOUT["ghost_tags"])))
        index_bytes = (buckets + overflow) * (LAYOUT["bucket_bytes"] + LAYOUT["hints_a_bucket"])
        log_bytes = shard_budget - index_bytes - ghost_lines * line
        if log_bytes >= items * record:
            break
        items = min(items - 1, max(0, log_bytes) // record + items // _OPTIMISM)
    else:
        return None
    small = max(line, log_bytes // _SMALL_SHARE // line * line)
    main = (log_bytes - small) // line * line
    largest = main // _LARGEST_SHARE // _ALIGNMENT_BYTES * _ALIGNMENT_BYTES
    largest = min(largest, _expiring_record_bytes(limits.KEY_BYTES_MAX + max_value))
    value_bytes_max = min(max_value, largest - _expiring_record_bytes(0) - _key_allowance(largest))
    if value_bytes_max < 1 or main <= 0:
        return None
    hints = shards * (buckets + overflow) * LAYOUT["hints_a_bucket"]
    shard_bytes = (
        LAYOUT["shard_header_bytes"]
        + (buckets + overflow) * LAYOUT["bucket_bytes"]
        + ghost_lines * line
        + small
        + main
    )
    return Geometry(
        table_bytes=LAYOUT["superblock_bytes"] + shards * shard_bytes,
        hints_bytes=LAYOUT["hints_header_bytes"] + hints,
        shard_bytes=shard_bytes,
        small_capacity=small,
        main_capacity=main,
        largest_record=largest,
        value_bytes_max=value_bytes_max,
        item_bytes=item_size,
        shards=shards,
        buckets=buckets,
        overflow=overflow,
        ghost_lines=ghost_lines,
    )


def _key_allowance(largest_record_bytes: int) -> int:
    """What the largest value leaves to its key: all of it, but in tiny tables an eighth."""
    return min(limits.KEY_BYTES_MAX, largest_record_bytes // 8)


def as_fields(geometry: Geometry) -> dict[str, int]:
    """The geometry as the C structure's fields, by name."""
    return dataclasses.asdict(geometry)
