"""What is stored comes back: the same value, of the same type, whatever it is."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from kvserve.limits import COUNTER_MAX, COUNTER_MIN

MIB = 2**20
VALUES = [
    b"",
    b"\x00\xff\n raw",
    "",
    "plain",
    "h\u00e9llo \U0001f600\x00",
    0,
    -1,
    COUNTER_MAX,
    COUNTER_MIN,
    None,
    True,
    False,
    0.5,
    float("inf"),
    [],
    {},
    (),
    [1, "two", b"three", None, [4.5, {"six": (7, [8])}]],
    {"name": "Ada", 1: "int", b"b": [True], (1, "a"): "tuple", None: {}},
    datetime.datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=datetime.UTC),
    [datetime.datetime(1969, 7, 20, tzinfo=datetime.timezone(datetime.timedelta(hours=-4)))],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_value_comes_back_with_its_type(cache: Any, key: str, value: Any) -> None:
    cache.set(key, value)
    restored = cache.get(key, "missing")
    assert restored == value
    assert type(restored) is type(value)
    assert cache.get_many([key]) == {key: value}


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_value_replaces_one_of_another_type(cache: Any, key: str, value: Any) -> None:
    for before in ("before", 7, None, bytes(1000)):
        cache.set(key, before)
        cache.set(key, value)
        restored = cache.get(key, "missing")
        assert restored == value
        assert type(restored) is type(value)


def test_none_is_not_a_miss(cache: Any, key: str) -> None:
    assert cache.get(key, "default") == "default"
    assert cache.gets(key, "default") == ("default", None)
    assert key not in cache
    version = cache.set(key, None)
    assert cache.get(key, "default") is None
    assert cache.gets(key, "default") == (None, version)
    assert key in cache
    assert cache.get_many([key]) == {key: None}


def test_default_is_given_as_it_is(cache: Any, key: str) -> None:
    default = object()
    assert cache.get(key) is None
    assert cache.get(key, default) is default
    assert cache.get(key, default=default) is default
    assert cache.gets(key, default)[0] is default


@pytest.mark.parametrize("size", [1, 100, 4095, 4096, 4097, 8191, 8192, 8193, 65_536, MIB - 1, MIB])
def test_sizes_around_every_boundary(cache: Any, key: str, size: int) -> None:
    """Pages, pipe buffers, queue messages and the largest value all have an edge."""
    value = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    cache.set(key, value)
    assert cache.get(key) == value
    text = "x" * size
    assert cache.replace(key, text)
    assert cache.get(key) == text
    assert cache.add(key, value) is False
    assert cache.delete(key) is True
    assert cache.get(key) is None


def test_what_was_read_is_the_callers_own(cache: Any, key: str) -> None:
    cache.set(key, {"list": [1]})
    cache.get(key)["list"].append(2)
    assert cache.get(key) == {"list": [1]}


def test_what_was_stored_is_a_copy(cache: Any, key: str) -> None:
    value = {"list": [1]}
    cache.set(key, value)
    value["list"].append(2)
    assert cache.get(key) == {"list": [1]}


def test_many_values_at_once_stay_apart(cache: Any) -> None:
    for number in range(500):
        cache.set(f"key {number}", f"value {number}")
    for number in range(500):
        assert cache.get(f"key {number}") == f"value {number}"


@pytest.mark.parametrize("value", [bytearray(b"ab"), memoryview(b"xaby")[1:3]], ids=repr)
def test_buffers_come_back_as_bytes(cache: Any, key: str, value: Any) -> None:
    cache.set(key, value)
    assert cache.get(key) == b"ab"
    assert type(cache.get(key)) is bytes
