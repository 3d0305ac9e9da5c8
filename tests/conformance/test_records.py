"""get_here, get_record, keep_ttl, update, expire_at: all that one key holds, seen or changed."""

from __future__ import annotations

import datetime
import math
import time
from typing import Any

import pytest
from support import ways

import kvserve
from kvserve.errors import (
    InvalidArgument,
    InvalidKey,
    InvalidTTL,
    InvalidValue,
    NotACounter,
    ValueTooLarge,
)

EVERYWHERE = ("model", *ways.SERVED, *ways.NAMESPACES)
HERE = ("direct", "writer", *ways.NAMESPACES)
VALUES = [1, -(2**63), "text", "é" * 900, b"bytes", None, [1, {"a": b"b"}], "x" * 5000]


@pytest.mark.ways(*HERE, "async", "async-writer")
def test_what_shared_memory_has_needs_no_worker(way: str, cache: Any, key: str) -> None:
    get_here = here(way, cache)
    assert get_here(key) is None
    assert get_here(key, "default") == "default"
    for value in VALUES:
        cache.set(key, value)
        assert get_here(key) == value
    cache.delete(key)
    assert get_here(key, 7) == 7
    with pytest.raises(InvalidKey):
        get_here("")


def here(way: str, cache: Any) -> Any:
    """`get_here`, which is no coroutine for an asyncio client either."""
    if way == "async-namespace":
        return cache._namespace._client.get_here
    return cache._client.get_here if way.startswith("async") else cache.get_here


@pytest.mark.ways("worker-queue", "worker-fifo")
def test_a_client_that_reads_nothing_itself_says_so(cache: Any, key: str) -> None:
    cache.set(key, 1)
    assert cache.get_here(key) is kvserve.ASK_WORKER
    assert repr(cache.get_here("nobody", 7)) == "kvserve.ASK_WORKER"
    assert cache.namespace("eu").get_here(key) is kvserve.ASK_WORKER


@pytest.mark.ways("namespace", "async-namespace")
def test_a_cleared_namespace_is_empty_here_too(way: str, cache: Any, key: str) -> None:
    get_here = here(way, cache)
    cache.set(key, 1)
    assert get_here(key) == 1
    cache.flush()
    assert get_here(key, "gone") == "gone"


@pytest.mark.ways(*EVERYWHERE)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:12])
def test_a_record_is_all_of_one_moment(cache: Any, key: str, value: Any) -> None:
    assert cache.get_record(key) is None
    version = cache.set(key, value, ttl=100)
    found = cache.get_record(key)
    assert (found.value, type(found.value), found.version) == (value, type(value), version)
    assert 99 < found.ttl <= 100
    assert tuple(found) == (found.value, found.ttl, found.version)
    cache.touch(key, None)
    assert cache.get_record(key) == (value, math.inf, version)
    assert cache.cas(key, "next", found.version) is True
    assert cache.get_record(key).value == "next"
    cache.delete(key)
    assert cache.get_record(key) is None


@pytest.mark.ways(*ways.SERVED, *ways.NAMESPACES)
def test_records_in_a_pipeline(cache: Any, key: str) -> None:
    with cache.pipeline() as p:
        p.set(key, "a", 50).get_record(key).replace(key, "b", keep_ttl=True).get_record(key)
        p.expire_at(key, time.time() + 1000).ttl(key).expire_at(key, 0).get_record(key)
    version, first, _, second, there, ttl, gone, missing = p.results
    assert first.value == "a"
    assert first.version == version
    assert 49 < first.ttl <= 50
    assert second.value == "b"
    assert second.version > version
    assert 49 < second.ttl <= first.ttl
    assert (there, gone, missing) == (True, True, None)
    assert 998 < ttl <= 1000


@pytest.mark.ways(*EVERYWHERE)
@pytest.mark.parametrize("how", ["replace", "cas"])
@pytest.mark.parametrize(
    "value", [5, "longer than before " * 300, None], ids=["int", "long", "none"]
)
def test_a_new_value_keeps_the_old_ones_life(cache: Any, key: str, how: str, value: Any) -> None:
    def change(**ttl: Any) -> bool:
        version = () if how == "replace" else (cache.gets(key)[1] or 0,)
        return bool(getattr(cache, how)(key, value, *version, **ttl))

    assert change(keep_ttl=True) is False
    cache.set(key, 1, ttl=200)
    before = cache.ttl(key)
    assert change(keep_ttl=True) is True
    assert before - 2 < cache.ttl(key) <= before
    assert change() is True
    assert cache.ttl(key) == math.inf
    assert change(keep_ttl=True) is True
    assert cache.ttl(key) == math.inf
    with pytest.raises(InvalidArgument):
        change(ttl=5, keep_ttl=True)
    assert cache.get(key) == value
    cache.touch(key, 0.03)
    change(keep_ttl=True)
    time.sleep(0.05)
    assert cache.get(key, "gone") == "gone"


@pytest.mark.ways(*EVERYWHERE)
def test_update_of_what_is_there_and_what_is_not(cache: Any, key: str) -> None:
    default: list[int] = []
    assert cache.update(key, lambda had: [*had, 1], default) == [1]
    assert cache.update(key, lambda had: had.append(2) or had, default) == [1, 2]
    assert cache.get(key) == [1, 2]
    cache.delete(key)
    assert cache.update(key, lambda had: had.append(3) or had, default) == [3]
    assert default == []
    cache.delete(key)
    assert cache.update(key, lambda had: had is None) is True


@pytest.mark.ways(*EVERYWHERE)
def test_update_keeps_the_ttl_unless_one_is_given(cache: Any, key: str) -> None:
    cache.update(key, lambda _: 1, ttl=100)
    cache.update(key, lambda had: had + 1)
    assert 98 < cache.ttl(key) <= 100
    cache.update(key, lambda had: had + 1, ttl=300)
    assert 298 < cache.ttl(key) <= 300
    cache.update(key, lambda had: had + 1, ttl=math.inf)
    assert cache.gets(key)[0] == 4
    assert cache.ttl(key) == math.inf


@pytest.mark.ways(*EVERYWHERE)
def test_update_that_changes_nothing(cache: Any, key: str) -> None:
    assert cache.update(key, lambda _: kvserve.UNCHANGED, "default") == "default"
    assert key not in cache
    version = cache.set(key, "kept")
    assert cache.update(key, lambda _: kvserve.UNCHANGED) == "kept"

    def fails(_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.update(key, fails)
    with pytest.raises(InvalidValue):
        cache.update(key, lambda _: object())
    with pytest.raises(ValueTooLarge):
        cache.update(key, lambda _: bytes(2**20 + 1))
    with pytest.raises(InvalidTTL):
        cache.update(key, lambda _: 1, ttl=0)
    assert cache.gets(key) == ("kept", version)


@pytest.mark.ways("model", *ways.CLIENTS, "namespace")
def test_update_begins_anew_when_the_key_was_changed(cache: Any, key: str) -> None:
    seen = []

    def change(had: Any) -> Any:
        seen.append(had)
        if len(seen) < 4:
            cache.set(key, [*had, len(seen)])
        return [*had, "mine"]

    cache.set(key, [])
    assert cache.update(key, change) == [1, 2, 3, "mine"]
    assert seen == [[], [1], [1, 2], [1, 2, 3]]
    cache.delete(key)
    seen.clear()
    assert cache.update(key, change, []) == [1, 2, 3, "mine"]


@pytest.mark.ways("async", "async-writer", "async-namespace")
def test_update_by_a_coroutine_begins_anew(way: str, cache: Any, key: str) -> None:
    client = (cache._namespace if way == "async-namespace" else cache)._client
    seen = []

    async def change(had: Any) -> Any:
        seen.append(had)
        if len(seen) < 4:
            await client.set(key, [*had, len(seen)])
        return [*had, "mine"]

    assert cache.update(key, change, []) == [1, 2, 3, "mine"]
    assert seen == [[], [1], [1, 2], [1, 2, 3]]


@pytest.mark.ways("async", "async-writer", "async-namespace")
def test_update_by_a_coroutine(cache: Any, key: str) -> None:
    async def change(had: Any) -> Any:
        return had + 1

    assert cache.update(key, change, 0) == 1
    assert cache.update(key, change, 0) == 2


@pytest.mark.ways("direct", "writer", "namespace")
def test_a_coroutine_is_not_for_a_blocking_client(cache: Any, key: str) -> None:
    async def change(had: Any) -> Any:
        return had

    with pytest.raises(InvalidArgument):
        cache.update(key, change)


@pytest.mark.ways(*EVERYWHERE)
def test_expire_at_a_time_of_the_clock(cache: Any, key: str) -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=500)
    assert cache.expire_at(key, soon) is False
    cache.set(key, 1)
    zone = datetime.timezone(datetime.timedelta(hours=5))
    for when in (soon, soon.astimezone(zone), soon.timestamp(), int(soon.timestamp()) + 1):
        assert cache.expire_at(key, when) is True
        assert 495 < cache.ttl(key) <= 501
    assert cache.expire_at(key, math.inf) is True
    assert cache.ttl(key) == math.inf
    for past in (soon - datetime.timedelta(days=1), 0, -5, time.time(), -math.inf):
        cache.set(key, 1)
        assert cache.expire_at(key, past) is True
        assert key not in cache
        assert cache.expire_at(key, past) is False
    cache.set(key, 1)
    assert cache.expire_at(key, time.time() + 0.02) is True
    time.sleep(0.04)
    assert key not in cache


@pytest.mark.ways(*EVERYWHERE)
def test_what_is_no_moment(cache: Any, key: str) -> None:
    cache.set(key, 1)
    for when in (datetime.datetime.now(), "tomorrow", None, True, datetime.timedelta(1)):
        with pytest.raises(InvalidArgument):
            cache.expire_at(key, when)
    for when in (math.nan, time.time() + 200 * 366 * 86_400):
        with pytest.raises(InvalidTTL):
            cache.expire_at(key, when)
    assert cache.ttl(key) == math.inf


@pytest.mark.ways(*ways.SERVED)
def test_numeric_text_is_no_counter(cache: Any, key: str) -> None:
    cache.set(key, "2")
    with pytest.raises(NotACounter):
        cache.incr(key)
    assert cache.get(key) == "2"
