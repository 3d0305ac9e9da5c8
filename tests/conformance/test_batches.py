"""Many keys in one call: the same as one by one, whatever their number and size."""

from __future__ import annotations

from typing import Any

import pytest
from support import ways

from kvserve.errors import InvalidTTL

THOUSAND = {f"key {number}": f"value {number}" for number in range(1000)}


def test_thousand(cache: Any) -> None:
    assert cache.set_many(THOUSAND) is None
    assert cache.get_many(THOUSAND) == THOUSAND
    assert cache.get("key 999") == "value 999"
    assert cache.delete_many(THOUSAND) == 1000
    assert cache.get_many(THOUSAND) == {}
    assert cache.delete_many(THOUSAND) == 0


def test_of_some_that_are_there(cache: Any) -> None:
    cache.set_many({f"key {number}": number for number in range(0, 1000, 2)})
    found = cache.get_many(list(THOUSAND))
    assert found == {f"key {number}": number for number in range(0, 1000, 2)}
    assert cache.delete_many(list(THOUSAND)) == 500


def test_of_nothing(cache: Any) -> None:
    assert cache.get_many([]) == {}
    assert cache.set_many({}) is None
    assert cache.delete_many([]) == 0
    assert list(cache.scan()) == []


@pytest.mark.ways(*ways.SERVED)
def test_a_wrong_ttl_is_told_also_of_nothing(cache: Any) -> None:
    with pytest.raises(InvalidTTL):
        cache.set_many({}, ttl=-1)


def test_of_one(cache: Any, key: str) -> None:
    cache.set_many({key: 1})
    assert cache.get_many([key]) == {key: 1}
    assert cache.delete_many([key]) == 1


def test_any_iterable_will_do(cache: Any) -> None:
    cache.set_many(THOUSAND)
    assert cache.get_many(iter(THOUSAND)) == THOUSAND
    assert cache.get_many(key for key in THOUSAND) == THOUSAND
    assert cache.delete_many({"key 1", "key 2"}) == 2
    assert cache.delete_many(key for key in THOUSAND) == 998


def test_the_same_key_twice(cache: Any, key: str) -> None:
    cache.set(key, 1)
    assert cache.get_many([key, key]) == {key: 1}
    assert cache.delete_many([key, key]) == 1


def test_of_every_kind_of_value(cache: Any) -> None:
    values = {"a": b"", "b": "", "c": 0, "d": None, "e": [1, (2,)], "f": {"x": 1.5}, b"g": True}
    cache.set_many(values)
    found = cache.get_many(values)
    assert found == values
    assert {key: type(value) for key, value in found.items()} == {
        key: type(value) for key, value in values.items()
    }


def test_counters_in_a_batch_count_on(cache: Any) -> None:
    cache.set_many({"a": 1, "b": 2})
    assert cache.incr("a", 10) == 11
    assert cache.get_many(["a", "b"]) == {"a": 11, "b": 2}


def test_large_values(cache: Any) -> None:
    """More than a pipe holds, and more than one frame may carry, whichever way it goes."""
    values = {f"key {number}": bytes([number]) * 200_000 for number in range(110)}
    cache.set_many(values)
    assert cache.get_many(values) == values


@pytest.mark.ways("model", *ways.SERVED)
def test_more_than_one_frame_may_hold(cache: Any) -> None:
    values = {f"key {number}": number for number in range(40_000)}
    cache.set_many(values)
    assert cache.get_many(values) == values
    assert cache.delete_many(values) == 40_000


def test_flush_empties_everything(cache: Any) -> None:
    cache.set_many(THOUSAND)
    assert cache.flush() is None
    assert cache.get_many(THOUSAND) == {}
    assert "key 1" not in cache
    assert list(cache.scan()) == []
    assert cache.delete("key 1") is False
    assert cache.add("key 1", "new") is True
    assert cache.get("key 1") == "new"
    assert cache.incr("key 2") == 1
    assert set(cache.scan()) == {"key 1", "key 2"}


def test_flush_of_nothing(cache: Any) -> None:
    cache.flush()
    cache.flush()
    assert list(cache.scan()) == []
