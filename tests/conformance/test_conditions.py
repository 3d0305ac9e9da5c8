"""add, replace and cas store under a condition; versions tell one state of a key from another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support import ways

from kvserve.errors import InvalidArgument, InvalidValue, ValueTooLarge

LARGEST = 2**20


def test_add_stores_only_what_is_not_there(cache: Any, key: str) -> None:
    assert cache.add(key, "first") is True
    assert cache.add(key, "second") is False
    assert cache.get(key) == "first"
    cache.delete(key)
    assert cache.add(key, "third") is True
    assert cache.get(key) == "third"


def test_none_is_there_for_add(cache: Any, key: str) -> None:
    cache.set(key, None)
    assert cache.add(key, 1) is False
    assert cache.get(key, "missing") is None


def test_replace_stores_only_over_what_is_there(cache: Any, key: str) -> None:
    assert cache.replace(key, "first") is False
    assert key not in cache
    cache.set(key, "first")
    assert cache.replace(key, b"second") is True
    assert cache.get(key) == b"second"


def test_cas_stores_only_over_its_version(cache: Any, key: str) -> None:
    version = cache.set(key, 1)
    assert cache.cas(key, 2, version) is True
    assert cache.get(key) == 2
    assert cache.cas(key, 3, version) is False
    assert cache.get(key) == 2
    _, current = cache.gets(key)
    assert cache.cas(key, 3, current) is True
    assert cache.get(key) == 3


def test_cas_of_nothing(cache: Any, key: str) -> None:
    version = cache.set(key, 1)
    cache.delete(key)
    assert cache.cas(key, 2, version) is False
    assert cache.cas(key, 2, 1) is False
    assert key not in cache


def test_cas_sees_what_came_and_went_in_between(cache: Any, key: str) -> None:
    """The same value again is not the same version."""
    version = cache.set(key, "a")
    cache.set(key, "b")
    cache.set(key, "a")
    assert cache.cas(key, "c", version) is False
    version = cache.gets(key)[1]
    cache.delete(key)
    cache.set(key, "a")
    assert cache.cas(key, "c", version) is False
    assert cache.get(key) == "a"


def test_every_change_gives_a_higher_version(cache: Any, key: str) -> None:
    versions = [cache.set(key, 1)]

    def look() -> None:
        versions.append(cache.gets(key)[1])

    cache.set(key, 2)
    look()
    assert cache.replace(key, 3)
    look()
    assert cache.cas(key, 4, versions[-1])
    look()
    assert cache.incr(key) == 5
    look()
    assert cache.decr(key) == 4
    look()
    cache.set_many({key: 6})
    look()
    cache.delete(key)
    assert cache.add(key, 7)
    look()
    cache.flush()
    assert cache.incr(key) == 1
    look()
    assert versions[0] > 0
    assert versions == sorted(set(versions))


def test_set_returns_the_version_that_gets_sees(cache: Any, key: str) -> None:
    for value in ("a", 1, None, bytes(100_000)):
        version = cache.set(key, value)
        assert type(version) is int
        assert cache.gets(key) == (value, version)


def test_delete_removes_only_its_version(cache: Any, key: str) -> None:
    old = cache.set(key, 1)
    version = cache.set(key, 2)
    assert cache.delete(key, old) is False
    assert cache.gets(key) == (2, version)
    assert cache.delete(key, version) is True
    assert cache.delete(key, version) is False
    assert key not in cache


def test_delete_of_a_counters_version(cache: Any, key: str) -> None:
    """A counter is changed in place; its version changes all the same."""
    version = cache.set(key, 1)
    cache.incr(key)
    assert cache.delete(key, version) is False
    assert cache.delete(key, cache.gets(key)[1]) is True


def test_deleted_version_does_not_match_the_next(cache: Any, key: str) -> None:
    version = cache.set(key, 1)
    cache.delete(key)
    cache.set(key, 1)
    assert cache.delete(key, version) is False
    assert cache.get(key) == 1


@pytest.mark.ways(*ways.SERVED)
@pytest.mark.parametrize("version", [-1, 2**64, 1.0, True, "1"], ids=repr)
def test_what_is_no_version(cache: Any, key: str, version: Any) -> None:
    cache.set(key, 1)
    for call in (lambda: cache.delete(key, version), lambda: cache.cas(key, 2, version)):
        with pytest.raises(InvalidArgument):
            call()
    assert cache.get(key) == 1


def test_reading_and_failing_change_no_version(cache: Any, key: str) -> None:
    version = cache.set(key, 1)
    cache.get(key)
    cache.ttl(key)
    cache.add(key, 2)
    cache.cas(key, 2, version + 1)
    cache.get_many([key])
    list(cache.scan())
    assert cache.gets(key) == (1, version)


def test_two_that_read_the_same_version_do_not_both_win(cache: Any, key: str) -> None:
    cache.set(key, [])
    first, first_version = cache.gets(key)
    second, second_version = cache.gets(key)
    assert cache.cas(key, [*first, "first"], first_version) is True
    assert cache.cas(key, [*second, "second"], second_version) is False
    assert cache.get(key) == ["first"]


@pytest.mark.ways("model", *ways.SERVED)
@pytest.mark.parametrize("value", [object(), 2**64, {1, 2}, [object()], "\ud800"], ids=repr)
def test_bad_value_changes_nothing(cache: Any, key: str, value: Any) -> None:
    version = cache.set(key, "kept")
    calls: list[Callable[[], object]] = [
        lambda: cache.set(key, value),
        lambda: cache.add("other", value),
        lambda: cache.replace(key, value),
        lambda: cache.cas(key, value, version),
        lambda: cache.set_many({"other": 1, key: value, "third": 1}),
    ]
    for call in calls:
        with pytest.raises(InvalidValue):
            call()
    assert cache.gets(key) == ("kept", version)
    assert list(cache.scan()) == [key]


@pytest.mark.parametrize("value", [bytes(LARGEST + 1), "x" * (LARGEST + 1), [bytes(LARGEST)]],
                         ids=["bytes", "text", "list"])  # fmt: skip
def test_too_large_a_value_changes_nothing(cache: Any, key: str, value: Any) -> None:
    version = cache.set(key, "kept")
    calls: list[Callable[[], object]] = [
        lambda: cache.set(key, value),
        lambda: cache.add("other", value),
        lambda: cache.replace(key, value),
        lambda: cache.cas(key, value, version),
        lambda: cache.set_many({key: value}),
    ]
    for call in calls:
        with pytest.raises(ValueTooLarge):
            call()
    assert cache.gets(key) == ("kept", version)
    assert list(cache.scan()) == [key]


@pytest.mark.ways("model", *ways.SERVED)
def test_batch_with_a_value_too_large_changes_nothing(cache: Any) -> None:
    with pytest.raises(ValueTooLarge):
        cache.set_many({"before": 1, "large": bytes(LARGEST + 1), "after": 3})
    assert list(cache.scan()) == []
