"""Geometries for any memory: within it, valid to the core, and of use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvserve import limits
from kvserve.errors import ConfigError
from kvserve.table._core import format_segment
from kvserve.table.geometry import as_fields, plan, record_bytes

MEMORY = st.one_of(
    st.integers(limits.MEMORY_BYTES_MIN, 2**22),
    st.integers(limits.MEMORY_BYTES_MIN, limits.MEMORY_BYTES_MAX),
)
ITEM_SIZES = st.one_of(
    st.integers(limits.ITEM_BYTES_MIN, 4096),
    st.integers(limits.ITEM_BYTES_MIN, limits.VALUE_BYTES_MAX),
)
VALUE_SIZES = st.integers(1, limits.VALUE_BYTES_MAX)
SHARDS = st.integers(0, limits.SHARDS_MAX)
WORKERS = st.integers(1, limits.WORKERS_MAX)


@given(MEMORY, ITEM_SIZES, VALUE_SIZES, SHARDS, WORKERS)
def test_plan_keeps_its_promises(
    memory: int, item_size: int, max_value: int, shards: int, workers: int
) -> None:
    try:
        geometry = plan(memory, item_size, max_value, shards, workers)
    except ConfigError:
        return
    assert geometry.memory_bytes <= memory
    assert 1 <= geometry.shards <= limits.SHARDS_MAX
    assert shards == 0 or geometry.shards <= shards
    assert 1 <= geometry.value_bytes_max <= max_value
    assert record_bytes(1 + geometry.value_bytes_max) + 8 <= geometry.largest_record
    assert 8 * geometry.largest_record <= geometry.main_capacity
    assert geometry.buckets >= 1
    assert geometry.overflow >= 1
    assert geometry.log_bytes <= geometry.table_bytes


@given(st.integers(limits.MEMORY_BYTES_MIN, 2**21), ITEM_SIZES, VALUE_SIZES, SHARDS)
def test_core_accepts_every_plan(memory: int, item_size: int, max_value: int, shards: int) -> None:
    try:
        geometry = plan(memory, item_size, max_value, shards, 1)
    except ConfigError:
        return
    table = bytearray(geometry.table_bytes)
    format_segment(table, as_fields(geometry), bytes(16), bytes(16), bytes(32))


@given(st.integers(1, 64), st.integers(8, 1024))
def test_more_memory_never_holds_less(mebibytes: int, item_size: int) -> None:
    smaller = plan(mebibytes * limits.MIB, item_size, 4096, 1, 1)
    larger = plan((mebibytes + 1) * limits.MIB, item_size, 4096, 1, 1)
    assert larger.capacity_items >= smaller.capacity_items


@given(st.integers(16, 512), st.sampled_from([32, 64, 100, 128, 256, 1024]))
def test_overhead_of_an_item_is_bounded(mebibytes: int, item_size: int) -> None:
    """Header, index, ghost, hint, padding and reserve together: at most 40 bytes an item."""
    geometry = plan(mebibytes * limits.MIB, item_size, 4096, 0, 1)
    overhead = geometry.memory_bytes / geometry.capacity_items - item_size
    assert overhead <= 40
