"""Versions of values that are not in the table: none of a table's, and exact in any JSON."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvserve import limits
from kvserve.execution.stored.entry import Entry, content_version, is_version

payloads = st.binary(max_size=64)


@given(payloads, payloads)
def test_the_version_tells_the_value(one: bytes, other: bytes) -> None:
    version = content_version(1, one)
    assert limits.VERSION_TABLE_END <= version < 2**53
    assert is_version(Entry(1, one, 5), version)
    assert is_version(Entry(1, other, 5), version) == (one == other)
    assert not is_version(Entry(2, one, 5), version)


def test_a_version_of_the_table_is_compared_with_the_tables() -> None:
    assert is_version(Entry(1, b"value", limits.VERSION_FIRST_MAX), limits.VERSION_FIRST_MAX)
    assert not is_version(Entry(1, b"value", 5), 6)
