"""The store over real Valkey servers, one alone and a cluster: what is kept, and conditions."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from support.stores import record
from support.valkeys import Cluster, Valkey, serve, serve_cluster

from kvserve.errors import CounterOverflow, NotACounter
from kvserve.limits import COUNTER_MAX, COUNTER_MIN
from kvserve.protocol import codec
from kvserve.store.base import Record
from kvserve.store.valkey.store import ValkeyStore

Other = Callable[..., Any]  # another program: the reply to one of its commands
Work = Callable[[ValkeyStore], Awaitable[None]]
LONG_MS = 1_000_000
VALUES = [
    b"", b"\xc1\x00 looks like ours", b"x" * 100_000, "", "text", "é" * 3000, 0, -1, COUNTER_MAX,
    COUNTER_MIN, None, True, 1.5, [1, "a", None], {"a": (1, 2)}, "17", b"17",
]  # fmt: skip


@pytest.fixture(scope="module", params=["single", "cluster"])
def backend(request: pytest.FixtureRequest) -> Iterator[Valkey | Cluster]:
    """What the tests of this module store in, one after the other."""
    with serve() if request.param == "single" else serve_cluster() as started:
        if isinstance(started, Cluster):
            started.wait_ready()
        yield started


@pytest.fixture
def url(backend: Valkey | Cluster) -> str:
    """The store's URL; every test finds it empty."""
    for server in getattr(backend, "servers", [backend]):
        server.call("FLUSHALL")
    return backend.url


@pytest.fixture
def other(backend: Valkey | Cluster) -> Other:
    """Another program that uses the same store."""
    return backend.call


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[ValkeyStore]:
    """A store for a block of code."""
    store = ValkeyStore(url, timeout_seconds=20.0, staleness_seconds=1.0)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def working(url: str, work: Work) -> None:
    """Does some work with a store, on the loop that workers use."""

    async def main() -> None:
        async with opened(url) as store:
            await work(store)

    uvloop.run(main())


def value(found: Record | None) -> object:
    """What a record holds."""
    assert found is not None
    return codec.decode(found.codec, found.payload)


def now_ms() -> int:
    """Unix time."""
    return time.time_ns() // 1_000_000


async def only(store: ValkeyStore, key: str | bytes) -> Record:
    """What is stored under a key."""
    (found,) = await store.load_many([key])
    assert found is not None
    return found


def test_all_values_come_back_with_their_codec(url: str) -> None:
    async def work(store: ValkeyStore) -> None:
        records = [record(f"key {number}", each) for number, each in enumerate(VALUES)]
        await store.save_many(records)
        found = await store.load_many([each.key for each in records])
        assert [each and each[:4] for each in found] == [each[:4] for each in records]

    working(url, work)


def test_many_keys_keep_their_order_and_type(url: str) -> None:
    async def work(store: ValkeyStore) -> None:
        keys = [f"é{number}" if number % 2 else b"\xff%d" % number for number in range(300)]
        await store.save_many([record(key, number) for number, key in enumerate(keys)])
        asked = ["absent", *keys, b"absent", keys[0]]
        found = await store.load_many(asked)
        assert found[0] is found[301] is None
        assert [each and each.key for each in found[1:301]] == keys
        assert [value(each) for each in found[1:301]] == list(range(300))
        assert value(found[302]) == 0
        assert value(await only(store, "é1".encode())) == 1
        assert await store.load_many([]) == []

    working(url, work)


def test_the_last_of_a_key_wins(url: str) -> None:
    async def work(store: ValkeyStore) -> None:
        await store.save_many([record("key", 1), record("a", 1), record(b"key", 2)])
        assert value(await only(store, "key")) == 2
        await store.save_many([])

    working(url, work)


def test_deletes_say_what_was_there(url: str) -> None:
    async def work(store: ValkeyStore) -> None:
        await store.save_many([record(f"{number}", number) for number in range(0, 40, 2)])
        deleted = await store.delete_many([f"{number}" for number in range(40)])
        assert deleted == [True, False] * 20
        assert await store.load_many(["0", "2"]) == [None, None]

    working(url, work)


def test_what_is_stored_is_as_documented(url: str, other: Other) -> None:
    async def work(store: ValkeyStore) -> None:
        await store.save_many([record("count", 41), record("text", "hi"), record("list", [1])])
        assert other("GET", "count") == b"41"
        assert other("INCRBY", "count", 1) == 42
        assert value(await only(store, "count")) == 42
        for key, number, payload in (("text", b"\x01", b"hi"), ("list", b"\x03", b"\x91\x01")):
            stored = other("GET", key)
            assert stored[:2] == b"\xc1" + number
            assert stored[10:] == payload
            first = stored[2:10]
            assert (await only(store, key)).stamp == first
            await store.save_many([await only(store, key)])
            assert other("GET", key)[2:10] != first

    working(url, work)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (b"0", 0), (b"-5", -5), (b"%d" % COUNTER_MAX, COUNTER_MAX),
        (b"%d" % COUNTER_MIN, COUNTER_MIN), (b"%d" % (COUNTER_MAX + 1), b"9223372036854775808"),
        (b"", b""), (b"007", b"007"), (b"-0", b"-0"), (b"+1", b"+1"), (b"1 ", b"1 "),
        (b"1.5", b"1.5"), (b"plain text", b"plain text"), (b"\xc1", b"\xc1"),
        (b"\xc1\x00short", b"\xc1\x00short"), (b"\xc1\x09" + 9 * b"x", b"\xc1\x09" + 9 * b"x"),
        (b"\xc1\x02" + 16 * b"x", b"\xc1\x02" + 16 * b"x"),
        (b"\xc1\x01" + 8 * b"x" + b"\xff", b"\xc1\x01" + 8 * b"x" + b"\xff"),
    ],
)  # fmt: skip
def test_values_of_others(url: str, other: Other, stored: bytes, expected: object) -> None:
    async def work(store: ValkeyStore) -> None:
        other("SET", "key", stored)
        seen = await only(store, "key")
        assert value(seen) == expected
        other("DEL", "key")
        assert not await store.compare_and_set(seen, record("key", "mine"))
        assert not await store.compare_and_delete(seen)
        other("SET", "key", stored)
        assert await store.compare_and_set(seen, record("key", "mine"))
        assert not await store.compare_and_delete(seen)
        assert value(await only(store, "key")) == "mine"

    working(url, work)


def test_a_list_of_others_is_not_there_but_in_the_way(url: str, other: Other) -> None:
    async def work(store: ValkeyStore) -> None:
        other("RPUSH", "key", "a", "b")
        assert await store.load_many(["key"]) == [None]
        assert not await store.add(record("key", 1))
        assert not await store.compare_and_delete(record("key", b"a"))
        with pytest.raises(NotACounter):
            await store.increment("key", 1, 0, 0)
        assert other("LLEN", "key") == 2
        await store.save_many([record("key", 1)])
        assert value(await only(store, "key")) == 1

    working(url, work)


def test_conditions(url: str) -> None:
    async def work(store: ValkeyStore) -> None:
        assert not await store.replace(record("key", "a"))
        assert await store.add(record("key", "b"))
        assert not await store.add(record("key", "c"))
        assert value(await only(store, "key")) == "b"
        assert await store.replace(record("key", "d"))
        seen = await only(store, "key")
        assert await store.compare_and_set(seen, record("key", "e"))
        assert not await store.compare_and_set(seen, record("key", "f"))
        assert not await store.compare_and_delete(seen)
        seen = await only(store, "key")
        assert value(seen) == "e"
        assert await store.compare_and_delete(seen)
        assert not await store.compare_and_delete(seen)
        assert not await store.compare_and_set(seen, record("key", "g"))
        assert await store.load_many(["key"]) == [None]

    working(url, work)


@pytest.mark.parametrize("same", [b"bytes", "text", [1, 2]])
def test_an_equal_value_of_another_write_is_another_value(url: str, same: object) -> None:
    async def work(store: ValkeyStore) -> None:
        await store.save_many([record("key", same)])
        seen = await only(store, "key")
        await store.save_many([record("key", "between")])
        await store.save_many([record("key", same)])
        assert not await store.compare_and_set(seen, record("key", "mine"))
        assert not await store.compare_and_delete(seen)
        assert value(await only(store, "key")) == same

    working(url, work)


def test_counters(url: str) -> None:
    async def work(store: ValkeyStore) -> None:
        assert await store.increment("key", 1, None, 0) is None
        assert value(await store.increment("key", 5, 100, 0)) == 105
        assert value(await store.increment("key", -7, 0, 0)) == 98
        assert value(await store.increment(b"key", 2**62, None, 0)) == 2**62 + 98  # not rounded
        with pytest.raises(CounterOverflow):
            await store.increment("key", 2**62, 0, 0)
        with pytest.raises(CounterOverflow):
            await store.increment("other", 1, COUNTER_MAX, 0)
        assert await store.load_many(["other"]) == [None]
        assert value(await store.increment("other", -1, COUNTER_MIN + 1, 0)) == COUNTER_MIN
        assert value(await store.increment("other", COUNTER_MIN + 1 + COUNTER_MAX, 0, 0)) == (
            COUNTER_MIN
        )
        for number, text in enumerate((b"17", "17", [17], "")):
            await store.save_many([record(f"no {number}", text)])
            with pytest.raises(NotACounter):
                await store.increment(f"no {number}", 1, 0, 0)

    working(url, work)


def test_expiry(url: str, other: Other) -> None:
    async def work(store: ValkeyStore) -> None:
        at_ms = now_ms() + LONG_MS
        await store.save_many([record("a", 1, at_ms), record("b", "x", at_ms), record("c", 1)])
        for key in ("a", "b"):
            assert 0 < other("PTTL", key) <= LONG_MS
            # Counted from the server's answer, so it may be off by the way there and back.
            assert at_ms - 1 <= (await only(store, key)).expires_at_ms <= now_ms() + LONG_MS
        assert (await only(store, "c")).expires_at_ms == 0
        counted = await store.increment("a", 1, 0, 0)
        assert counted is not None
        assert counted.expires_at_ms >= at_ms - 1
        made = await store.increment("d", 1, 0, at_ms)
        assert made is not None
        assert made.expires_at_ms >= at_ms - 1
        seen = await only(store, "b")
        assert await store.compare_and_set(seen, record("b", "y", at_ms + LONG_MS))
        assert LONG_MS < other("PTTL", "b") <= 2 * LONG_MS
        assert await store.replace(record("b", "z"))
        assert await store.add(record("e", "z", at_ms))
        assert other("PTTL", "b") == -1
        assert 0 < other("PTTL", "e") <= LONG_MS
        await store.save_many([record("past", 1, now_ms() - 1), record("soon", 1, now_ms() + 30)])
        while (await store.load_many(["past", "soon"])) != [None, None]:
            await asyncio.sleep(0.005)
        assert other("EXISTS", "past") == other("EXISTS", "soon") == 0

    working(url, work)


def test_touch(url: str, other: Other) -> None:
    async def work(store: ValkeyStore) -> None:
        assert not await store.touch("key", now_ms() + LONG_MS)
        assert not await store.touch("key", 0)
        await store.save_many([record("key", "a")])
        seen = await only(store, "key")
        assert await store.touch("key", now_ms() + LONG_MS)
        assert 0 < other("PTTL", "key") <= LONG_MS
        assert await store.touch("key", 0)
        assert await store.touch("key", 0)
        assert other("PTTL", "key") == -1
        assert await store.compare_and_set(seen, record("key", "b"))
        assert await store.touch("key", now_ms() - 1)
        while await store.load_many(["key"]) != [None]:
            await asyncio.sleep(0.005)

    working(url, work)


def test_a_prefix_keeps_stores_apart(url: str, other: Other) -> None:
    async def main() -> None:
        mark = "&" if "?" in url else "?"
        async with opened(f"{url}{mark}prefix=a:") as one, opened(f"{url}{mark}prefix=b:") as two:
            await one.save_many([record("key", "one")])
            assert await two.add(record("key", "two"))
            assert value(await one.increment("n", 1, 0, 0)) == 1
            assert value(await only(one, "key")) == "one"
            assert (await only(one, "key")).key == "key"
            assert other("EXISTS", "a:key") == other("EXISTS", "b:key") == 1
            assert await one.delete_many(["key"]) == [True]
            assert value(await only(two, "key")) == "two"

    uvloop.run(main())


def test_eight_hosts_lose_nothing(url: str) -> None:
    async def host(number: int) -> int:
        added = 0
        async with opened(url) as store:
            for turn in range(25):
                await store.increment("count", 1, 0, 0)
                added += await store.add(record(f"first {turn}", number))
                while True:
                    (seen,) = await store.load_many(["list"])
                    if seen is None:
                        is_done = await store.add(record("list", [number]))
                    else:
                        longer = [*codec.decode(seen.codec, seen.payload), number]
                        is_done = await store.compare_and_set(seen, record("list", longer))
                    if is_done:
                        break
        return added

    async def main() -> None:
        added = await asyncio.gather(*map(host, range(8)))
        async with opened(url) as store:
            assert value(await only(store, "count")) == 200
            found = value(await only(store, "list"))
            assert isinstance(found, list)
            assert sorted(found) == sorted(list(range(8)) * 25)
        assert sum(added) == 25

    uvloop.run(main())


def test_many_calls_at_once_share_the_connections(url: str) -> None:
    async def work(store: ValkeyStore) -> None:
        payloads = {f"key {number}": os.urandom(5000) for number in range(200)}
        await asyncio.gather(
            *(store.save_many([record(key, payload)]) for key, payload in payloads.items())
        )
        found = await asyncio.gather(*(store.load_many([key]) for key in payloads))
        assert [each and each.payload for (each,) in found] == list(payloads.values())

    working(url, work)


def test_a_cancelled_call_leaves_nothing_behind(url: str) -> None:
    async def work(store: ValkeyStore) -> None:
        keys = [f"key {number}" for number in range(40)]
        await store.save_many([record(key, key) for key in keys])
        for steps in range(25):
            calls = [asyncio.ensure_future(store.load_many([key])) for key in keys]
            for _ in range(steps):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            for key in keys[:5]:
                assert value(await only(store, key)) == key

    working(url, work)
