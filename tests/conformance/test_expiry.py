"""Times to live: what is expired is missing to every operation, and never comes back."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import Any

import pytest
from support import ways

from kvserve.errors import InvalidTTL

Eventually = Callable[[Callable[[], object]], None]

SHORT = 0.06  # seconds; nothing here relies on its being over or not, but by asking
LONG = 3600.0
CENTURY = 100 * 366 * 86_400

BAD: list[Any] = [0, 0.0, -1, -0.001, math.nan, -math.inf, CENTURY + 1, 10**400, "60",
                  b"60", datetime.timedelta(0), datetime.timedelta(-1),
                  datetime.timedelta(days=40_000), object()]  # fmt: skip

STORES: dict[str, Callable[[Any, str, Any], object]] = {
    "set": lambda cache, key, ttl: cache.set(key, 1, ttl=ttl),
    "add": lambda cache, key, ttl: cache.add(key, 1, ttl=ttl),
    "replace": lambda cache, key, ttl: cache.set(key, 0) and cache.replace(key, 1, ttl=ttl),
    "cas": lambda cache, key, ttl: cache.cas(key, 1, cache.set(key, 0), ttl=ttl),
    "touch": lambda cache, key, ttl: cache.set(key, 1) and cache.touch(key, ttl=ttl),
    "incr": lambda cache, key, ttl: cache.incr(key, ttl=ttl),
    "decr": lambda cache, key, ttl: cache.decr(key, -1, ttl=ttl),
    "set_many": lambda cache, key, ttl: cache.set_many({key: 1}, ttl=ttl),
}


@pytest.fixture
def expired(cache: Any, key: str, eventually: Eventually) -> str:
    """A key whose value is expired. It was a counter, so that any operation fits it."""
    cache.set(key, 7, ttl=SHORT)
    eventually(lambda: key not in cache)
    return key


@pytest.mark.parametrize("store", STORES)
def test_every_store_can_expire(cache: Any, key: str, store: str, eventually: Eventually) -> None:
    STORES[store](cache, key, SHORT)
    eventually(lambda: cache.get(key) is None)


@pytest.mark.parametrize("store", STORES)
def test_every_store_tells_its_ttl(cache: Any, key: str, store: str) -> None:
    STORES[store](cache, key, LONG)
    left = cache.ttl(key)
    assert LONG - 300 < left <= LONG
    assert cache.get(key) == 1


@pytest.mark.parametrize("store", STORES)
def test_without_a_ttl_nothing_expires(cache: Any, key: str, store: str) -> None:
    STORES[store](cache, key, None)
    assert cache.ttl(key) == math.inf


@pytest.mark.ways("model", *ways.SERVED)
@pytest.mark.parametrize("ttl", [math.inf, CENTURY])
@pytest.mark.parametrize("store", STORES)
def test_infinity_never_expires(cache: Any, key: str, store: str, ttl: float) -> None:
    STORES[store](cache, key, ttl)
    assert cache.ttl(key) == math.inf


def test_ttl_runs_down_and_stays_down(cache: Any, key: str, eventually: Eventually) -> None:
    cache.set(key, 1, ttl=LONG)
    before = cache.ttl(key)
    eventually(lambda: cache.ttl(key) < before)
    assert cache.ttl("absent") is None


def test_expired_is_missing_to_every_reader(cache: Any, expired: str) -> None:
    assert cache.get(expired, "default") == "default"
    assert cache.gets(expired) == (None, None)
    assert cache.ttl(expired) is None
    assert cache.get_many([expired]) == {}
    assert expired not in cache
    assert list(cache.scan()) == []


def test_expired_is_missing_to_every_condition(cache: Any, expired: str) -> None:
    assert cache.replace(expired, 1) is False
    assert cache.cas(expired, 1, 1) is False
    assert cache.touch(expired, LONG) is False
    assert cache.delete(expired) is False
    assert cache.delete_many([expired]) == 0
    assert cache.incr(expired, initial=None) is None
    assert expired not in cache


def test_expired_can_be_added(cache: Any, expired: str) -> None:
    assert cache.add(expired, "new") is True
    assert cache.get(expired) == "new"
    assert cache.ttl(expired) == math.inf


def test_expired_counter_starts_again(cache: Any, expired: str) -> None:
    assert cache.incr(expired, 1, initial=100, ttl=LONG) == 101
    assert cache.ttl(expired) <= LONG


def test_expired_text_does_not_stop_a_counter(cache: Any, key: str, eventually: Eventually) -> None:
    cache.set(key, "text", ttl=SHORT)
    eventually(lambda: key not in cache)
    assert cache.incr(key) == 1


def test_old_version_of_the_expired_does_not_match_the_new(
    cache: Any, key: str, eventually: Eventually
) -> None:
    old = cache.set(key, 1, ttl=SHORT)
    eventually(lambda: key not in cache)
    new = cache.set(key, 2)
    assert new > old
    assert cache.cas(key, 3, old) is False
    assert cache.get(key) == 2


@pytest.mark.parametrize("store", ["set", "replace", "cas", "set_many"])
def test_overwriting_forgets_the_old_ttl(cache: Any, key: str, store: str) -> None:
    cache.set(key, 5, ttl=LONG)
    if store == "cas":
        assert cache.cas(key, 1, cache.gets(key)[1])
    elif store == "set_many":
        cache.set_many({key: 1})
    else:
        getattr(cache, store)(key, 1)
    assert cache.get(key) == 1
    assert cache.ttl(key) == math.inf


def test_counting_keeps_the_ttl(cache: Any, key: str) -> None:
    cache.set(key, 5, ttl=LONG)
    assert cache.incr(key, ttl=10 * LONG) == 6
    assert cache.ttl(key) <= LONG
    cache.set(key, 5)
    assert cache.decr(key, ttl=LONG) == 4
    assert cache.ttl(key) == math.inf


def test_touch_changes_the_ttl_and_nothing_else(cache: Any, key: str) -> None:
    version = cache.set(key, {"a": 1}, ttl=LONG)
    assert cache.touch(key, 10 * LONG) is True
    assert LONG < cache.ttl(key) <= 10 * LONG
    assert cache.touch(key, None) is True
    assert cache.ttl(key) == math.inf
    assert cache.gets(key) == ({"a": 1}, version)
    assert cache.cas(key, 2, version) is True


def test_touch_can_shorten(cache: Any, key: str, eventually: Eventually) -> None:
    cache.set(key, 1)
    assert cache.touch(key, SHORT) is True
    eventually(lambda: key not in cache)
    assert cache.touch(key, LONG) is False


def test_touch_of_nothing(cache: Any, key: str) -> None:
    assert cache.touch(key, LONG) is False
    assert key not in cache


def test_failed_conditions_leave_the_ttl(cache: Any, key: str) -> None:
    version = cache.set(key, 1, ttl=LONG)
    assert cache.add(key, 2, ttl=10 * LONG) is False
    assert cache.cas(key, 2, version + 1, ttl=10 * LONG) is False
    assert cache.ttl(key) <= LONG


def test_only_the_expired_go(cache: Any, eventually: Eventually) -> None:
    cache.set_many({f"short {number}": number for number in range(100)}, ttl=SHORT)
    cache.set_many({f"long {number}": number for number in range(100)}, ttl=LONG)
    cache.set_many({f"ever {number}": number for number in range(100)})
    eventually(lambda: cache.get_many([f"short {number}" for number in range(100)]) == {})
    for kind in ("long", "ever"):
        assert len(cache.get_many([f"{kind} {number}" for number in range(100)])) == 100
    assert len(set(cache.scan())) == 200


@pytest.mark.ways("model", *ways.SERVED)
def test_shortest_ttl_is_not_taken_for_never(cache: Any, key: str, eventually: Eventually) -> None:
    """A whole number of milliseconds of 0 means never, so less than one is rounded up."""
    for ttl in (1e-9, 0.0004, datetime.timedelta(microseconds=1)):
        cache.set(key, 1, ttl=ttl)
        eventually(lambda: key not in cache)


@pytest.mark.ways("model", *ways.SERVED)
@pytest.mark.parametrize(
    "ttl", [3600, 3600.0, datetime.timedelta(hours=1), CENTURY - 1, datetime.timedelta(36_599)]
)
def test_kinds_of_ttl(cache: Any, key: str, ttl: Any) -> None:
    seconds = ttl.total_seconds() if isinstance(ttl, datetime.timedelta) else ttl
    cache.set(key, 1, ttl=ttl)
    assert seconds - 300 < cache.ttl(key) <= seconds
    assert cache.touch(key, ttl) is True
    assert seconds - 300 < cache.ttl(key) <= seconds


@pytest.mark.ways("model", *ways.SERVED)
@pytest.mark.parametrize("ttl", BAD, ids=lambda ttl: repr(ttl)[:30])
@pytest.mark.parametrize("store", STORES)
def test_bad_ttl_changes_nothing(cache: Any, key: str, store: str, ttl: Any) -> None:
    with pytest.raises(InvalidTTL):
        STORES[store](cache, key, ttl)
    if key in cache:  # what some of these calls stored first, without a ttl
        assert cache.ttl(key) == math.inf
        assert cache.get(key) in (0, 1)
    else:
        assert list(cache.scan()) == []
