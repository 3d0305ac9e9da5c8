"""incr and decr: exact to the last of 64 bits, refused beyond, and never on anything else."""

from __future__ import annotations

from typing import Any

import pytest
from support import ways

from kvserve.errors import CounterOverflow, InvalidArgument, NotACounter
from kvserve.limits import COUNTER_MAX, COUNTER_MIN


def test_counting_starts_at_zero(cache: Any, key: str) -> None:
    assert cache.incr(key) == 1
    assert cache.incr(key) == 2
    assert cache.incr(key, 40) == 42
    assert cache.decr(key) == 41
    assert cache.decr(key, 50) == -9
    assert cache.get(key) == -9
    assert type(cache.get(key)) is int


def test_counting_down_starts_at_zero_too(cache: Any, key: str) -> None:
    assert cache.decr(key, 3) == -3


def test_initial_value_counts_once(cache: Any, key: str) -> None:
    assert cache.incr(key, 5, initial=100) == 105
    assert cache.incr(key, 5, initial=100) == 110
    assert cache.decr(key, 5, initial=100) == 105


def test_without_an_initial_value_a_missing_counter_stays_missing(cache: Any, key: str) -> None:
    assert cache.incr(key, initial=None) is None
    assert cache.decr(key, initial=None) is None
    assert key not in cache
    cache.set(key, 1)
    assert cache.incr(key, initial=None) == 2


def test_delta_of_zero_reads(cache: Any, key: str) -> None:
    assert cache.incr(key, 0, initial=7) == 7
    assert cache.incr(key, 0) == 7


def test_negative_delta(cache: Any, key: str) -> None:
    assert cache.incr(key, -3) == -3
    assert cache.decr(key, -5) == 2


def test_int_that_was_set_is_a_counter(cache: Any, key: str) -> None:
    cache.set(key, 10)
    assert cache.incr(key) == 11
    assert cache.get(key) == 11
    cache.set(key, 5)
    assert cache.get(key) == 5
    assert cache.cas(key, 20, cache.gets(key)[1]) is True
    assert cache.decr(key) == 19


@pytest.mark.parametrize("value", ["1", b"1", None, True, 1.0, [1], {}], ids=repr)
def test_anything_else_is_not_a_counter(cache: Any, key: str, value: Any) -> None:
    version = cache.set(key, value)
    for call in (cache.incr, cache.decr):
        with pytest.raises(NotACounter):
            call(key)
        with pytest.raises(NotACounter):
            call(key, 0, initial=None)
    assert cache.gets(key) == (value, version)


def test_both_ends_are_reached(cache: Any, key: str) -> None:
    cache.set(key, COUNTER_MAX - 1)
    assert cache.incr(key) == COUNTER_MAX
    cache.set(key, COUNTER_MIN + 1)
    assert cache.decr(key) == COUNTER_MIN
    assert cache.incr(key, COUNTER_MAX) == -1
    assert cache.incr(key, COUNTER_MIN + 1) == COUNTER_MIN
    cache.set(key, -1)
    assert cache.incr(key, COUNTER_MIN + 1) == COUNTER_MIN
    cache.set(key, 0)
    assert cache.incr(key, COUNTER_MAX) == COUNTER_MAX
    assert cache.decr(key, COUNTER_MAX) == 0
    assert cache.get(key) == 0


@pytest.mark.parametrize(
    ("start", "delta"),
    [
        (COUNTER_MAX, 1),
        (COUNTER_MAX, COUNTER_MAX),
        (1, COUNTER_MAX),
        (COUNTER_MIN, -1),
        (COUNTER_MIN, COUNTER_MIN),
        (-1, COUNTER_MIN),
    ],
)
def test_neither_end_is_passed(cache: Any, key: str, start: int, delta: int) -> None:
    version = cache.set(key, start)
    with pytest.raises(CounterOverflow):
        cache.incr(key, delta)
    assert cache.gets(key) == (start, version)
    with pytest.raises(CounterOverflow):
        cache.incr("missing", delta, initial=start)
    assert "missing" not in cache


def test_decr_passes_neither_end(cache: Any, key: str) -> None:
    cache.set(key, COUNTER_MIN)
    with pytest.raises(CounterOverflow):
        cache.decr(key)
    cache.set(key, COUNTER_MAX)
    with pytest.raises(CounterOverflow):
        cache.decr(key, -1)
    assert cache.get(key) == COUNTER_MAX


@pytest.mark.ways("model", *ways.SERVED)
@pytest.mark.parametrize("bad", [1.0, "1", 2**63, -(2**63) - 1, [1]], ids=repr)
def test_bad_delta_and_initial_change_nothing(cache: Any, key: str, bad: Any) -> None:
    cache.set(key, 5)
    with pytest.raises(InvalidArgument):
        cache.incr(key, bad)
    with pytest.raises(InvalidArgument):
        cache.incr("missing", 1, initial=bad)
    assert cache.get(key) == 5
    assert list(cache.scan()) == [key]


def test_many_counters_stay_apart(cache: Any) -> None:
    for turn in range(1, 6):
        for number in range(100):
            assert cache.incr(f"counter {number}", number) == turn * number
