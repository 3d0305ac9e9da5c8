"""The codec: what goes in comes out, of the same type, and nothing else goes in or comes out."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest

from kvserve.errors import InvalidValue, UnreadableValue
from kvserve.limits import COUNTER_MAX, COUNTER_MIN
from kvserve.protocol import codec

EAST = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
KEPT = [
    b"",
    b"\x00\xff" * 100,
    "",
    "plain",
    "h\u00e9llo \U0001f600\x00",
    0,
    1,
    -1,
    COUNTER_MAX,
    COUNTER_MIN,
    None,
    True,
    False,
    0.0,
    -0.5,
    math.inf,
    5e-324,
    [],
    [1, "two", b"three", None, [4.5, {"six": 7}]],
    (),
    (1, (2, (3,)), [4, (5,)]),
    {},
    {"name": "Ada", "tags": ["x", b"y"], "at": (1, 2)},
    {1: "int", b"b": "bytes", None: "none", (1, "a"): "tuple", 2.5: "float", False: "bool"},
    datetime.datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=datetime.UTC),
    datetime.datetime(1, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC),
    datetime.datetime(1969, 7, 20, 20, 17, tzinfo=EAST),
    [2**64 - 1, COUNTER_MIN],
    COUNTER_MAX + 1,
    2**64 - 1,
]


def types(value: Any) -> Any:
    """The types at every depth, since 1 == True == 1.0 and (1,) is not [1]."""
    if isinstance(value, dict):
        return dict, [(types(key), types(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [types(item) for item in value]
    return type(value)


@pytest.mark.parametrize("value", KEPT, ids=repr)
def test_round_trip(value: Any) -> None:
    restored = codec.decode(*codec.encode(value))
    assert restored == value
    assert types(restored) == types(value)


def test_minus_zero_and_not_a_number_survive() -> None:
    assert math.copysign(1, codec.decode(*codec.encode(-0.0))) == -1
    assert math.isnan(codec.decode(*codec.encode(math.nan)))


def test_time_zone_becomes_utc_and_the_moment_stays() -> None:
    moment = datetime.datetime(2024, 1, 1, 12, tzinfo=EAST)
    restored = codec.decode(*codec.encode(moment))
    assert restored == moment
    assert restored.utcoffset() == datetime.timedelta(0)


@pytest.mark.parametrize(
    ("value", "number", "payload"),
    [
        (b"raw", 0, b"raw"),
        ("\u00e9", 1, b"\xc3\xa9"),
        (1, 2, b"\x01" + bytes(7)),
        (-2, 2, b"\xfe" + b"\xff" * 7),
        (None, 3, b"\xc0"),
        (True, 3, b"\xc3"),
        ([1], 3, b"\x91\x01"),
        ((1,), 3, b"\xd5\x01\x91\x01"),
    ],
)
def test_bytes_are_part_of_the_layout(value: Any, number: int, payload: bytes) -> None:
    """A kept table is read by later versions, so these never change."""
    assert codec.encode(value) == (number, payload)
    assert codec.decode(number, payload) == value


def loop() -> list[Any]:
    """A list that holds itself."""
    value: list[Any] = []
    value.append(value)
    return value


def loop_through_tuple() -> tuple[Any, ...]:
    """A tuple whose list holds it."""
    inner: list[Any] = []
    value = (inner,)
    inner.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        2**64,
        COUNTER_MIN - 1,
        [2**64],
        [COUNTER_MIN - 1],
        object(),
        {1, 2},
        frozenset([1]),
        1j,
        print,
        int,
        range(3),
        datetime.date(2024, 1, 1),
        datetime.timedelta(1),
        datetime.datetime(2024, 1, 1),  # a time zone is what it lacks
        [datetime.datetime(2024, 1, 1)],
        datetime.datetime.min.replace(tzinfo=EAST),  # in UTC it is before the year 1
        [object()],
        {"a": ({1: [object()]},)},
        {object(): 1},
        "\ud800",
        ["\ud800"],
        {"\ud800": 1},
        loop(),
        loop_through_tuple(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_refused_at_any_depth(value: Any) -> None:
    with pytest.raises(InvalidValue):
        codec.encode(value)


@pytest.mark.parametrize("value", [object(), {1, 2}, datetime.date(2024, 1, 1)])
def test_refusal_names_the_type(value: Any) -> None:
    with pytest.raises(InvalidValue, match=type(value).__name__):
        codec.encode({"deep": [value]})


def test_pickle_is_never_read() -> None:
    """A payload that pickle would execute is only bytes here, whatever the codec says."""
    attack = b"cos\nsystem\n(S'false'\ntR."
    for number in range(16):
        try:
            restored = codec.decode(number, attack)
        except UnreadableValue:
            continue
        assert restored in (attack, attack.decode()) or isinstance(restored, int)


@pytest.mark.parametrize(
    ("number", "payload"),
    [
        (codec.TEXT, b"\xff"),
        (codec.MSGPACK, b""),
        (codec.MSGPACK, b"\xc1"),
        (codec.MSGPACK, b"\x92\x01"),
        (codec.MSGPACK, b"\x01\x01"),
        (codec.MSGPACK, b"\x81\x90\x01"),
        (codec.MSGPACK, b"\xc7\x01\x01\x01"),
        (codec.MSGPACK, b"\xd7\xff" + b"\xff" * 8),
        (codec.MSGPACK, b"\x91" * 100_000),
        (4, b""),
        (255, b"x"),
        (-1, b"x"),
    ],
)
def test_payload_that_does_not_follow_its_codec(number: int, payload: bytes) -> None:
    with pytest.raises(UnreadableValue):
        codec.decode(number, payload)
