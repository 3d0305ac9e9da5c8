"""The codec on any value and on any bytes."""

from __future__ import annotations

import datetime
from contextlib import nullcontext, suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kvserve.errors import InvalidValue, UnreadableValue
from kvserve.limits import COUNTER_MAX, COUNTER_MIN
from kvserve.protocol import codec

OFFSETS = st.timedeltas(
    datetime.timedelta(hours=-23, minutes=-59), datetime.timedelta(hours=23, minutes=59)
).map(datetime.timezone)
MOMENTS = st.datetimes(
    # A day from either end of time, since the moment is kept in UTC.
    datetime.datetime(1, 1, 2),
    datetime.datetime(9999, 12, 30),
    timezones=OFFSETS,
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(COUNTER_MIN, COUNTER_MAX),
    st.floats(allow_nan=False),
    TEXT,
    st.binary(),
    MOMENTS,
)
HASHABLE = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(HASHABLE, inner)
    ),
    max_leaves=30,
)
STRANGE = st.recursive(
    st.one_of(
        PLAIN,
        st.text(),
        st.integers(),
        st.floats(),
        st.complex_numbers(),
        st.datetimes(timezones=st.one_of(st.none(), OFFSETS)),
        st.dates(),
        st.fractions(),
        st.decimals(),
        st.uuids(),
        st.builds(object),
        st.frozensets(st.integers()),
        st.builds(datetime.datetime.replace, st.just(datetime.datetime.max), tzinfo=OFFSETS),
        st.binary().map(bytearray),
        st.binary().map(lambda data: memoryview(data)),
    ),
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple)),
)


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types at every depth."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return (
            left == right
            and all(map(same, left, right))
            and all(map(same, left.values(), right.values()))
        )
    return bool(left == right)


@given(VALUES)
def test_what_goes_in_comes_out(value: Any) -> None:
    number, payload = codec.encode(value)
    assert same(codec.decode(number, payload), value)


@given(VALUES)
def test_encoding_is_stable(value: Any) -> None:
    """What came out goes in as the same bytes, whichever process does it."""
    encoded = codec.encode(value)
    assert codec.encode(codec.decode(*encoded)) == encoded


@given(STRANGE)
def test_any_object_is_stored_or_refused(value: Any) -> None:
    try:
        encoded = codec.encode(value)
    except InvalidValue:
        return
    codec.decode(*encoded)


@given(st.integers(-1, 300), st.binary())
def test_any_bytes_are_decoded_or_refused(number: int, payload: bytes) -> None:
    is_readable = codec.is_readable(number, payload)
    with suppress(UnreadableValue) if not is_readable else nullcontext():
        codec.decode(number, payload)


@given(VALUES, st.data())
def test_damaged_payloads_are_decoded_or_refused(value: Any, data: st.DataObject) -> None:
    number, payload = codec.encode(value)
    damaged = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        if damaged:
            place = data.draw(st.integers(0, len(damaged) - 1))
            damaged[place] = data.draw(st.integers(0, 255))
    is_readable = codec.is_readable(number, bytes(damaged))
    with suppress(UnreadableValue) if not is_readable else nullcontext():
        codec.decode(number, bytes(damaged))
