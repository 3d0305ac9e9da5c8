"""A near cache over Valkey: what it is told of others' changes, and when nobody can tell it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import hiredis
import pytest
import uvloop
from support.stores import record
from support.valkeys import Heard, Valkey, following, serve, wait_until

from kvserve.store.valkey.store import ValkeyStore

STALENESS_SECONDS = 1.0  # it lapses if one of us stands still for three quarters of that
TIMEOUT_SECONDS = 20.0
PAUSE_MS = 5000
Work = Callable[[ValkeyStore, Heard], Awaitable[None]]


@pytest.fixture(scope="module")
def shared_valkey() -> Iterator[Valkey]:
    """A server that every test leaves as it was."""
    with serve() as server:
        yield server


@pytest.fixture
def valkey(shared_valkey: Valkey) -> Valkey:
    """The same, and empty."""
    shared_valkey.call("FLUSHALL")
    return shared_valkey


def working(url: str, work: Work) -> None:
    """Does some work with a store that follows."""

    async def main() -> None:
        async with following(url, TIMEOUT_SECONDS, STALENESS_SECONDS) as (store, heard):
            await work(store, heard)

    uvloop.run(main())


async def stays_stale(heard: Heard) -> None:
    """Freshness ends within the bound, and does not come back by itself."""
    await asyncio.sleep(STALENESS_SECONDS)
    told = len([each for each in heard.events if isinstance(each, int)])
    assert not heard.is_fresh
    await asyncio.sleep(STALENESS_SECONDS)
    assert told == len([each for each in heard.events if isinstance(each, int)])


async def comes_back(heard: Heard, since: int) -> None:
    """It is fresh anew, and all was declared invalid immediately before."""
    await heard.until(lambda: any(isinstance(each, int) for each in heard.events[since:]))
    later = heard.events[since:]
    first_fresh = next(index for index, each in enumerate(later) if isinstance(each, int))
    assert None in later[:first_fresh]


def test_everything_is_invalid_before_anything_is_fresh(valkey: Valkey) -> None:
    async def work(_: ValkeyStore, heard: Heard) -> None:
        assert heard.events[0] is None
        assert isinstance(heard.events[1], int)
        assert heard.events.count(None) == 1

    working(valkey.url, work)


def test_freshness_is_counted_from_the_question(valkey: Valkey) -> None:
    async def work(_store: ValkeyStore, heard: Heard) -> None:
        for _ in range(5):
            told = len(heard.events)
            await heard.until(partial(lambda told: len(heard.events) > told, told))
            latest_ms = time.monotonic_ns() // 1_000_000 + STALENESS_SECONDS * 1000
            assert heard.fresh_until_ms <= latest_ms
        assert heard.events.count(None) == 1

    working(valkey.url, work)


def test_every_kind_of_change_is_told(valkey: Valkey) -> None:
    async def work(_: ValkeyStore, heard: Heard) -> None:
        valkey.call("SET", "set", 1)
        valkey.call("SET", "short", 1, "PX", 20)
        valkey.call("MSET", "many1", 1, "many2", 2)
        valkey.call("APPEND", b"\xff", "x")
        for key in (b"set", b"short", b"many1", b"many2", b"\xff"):
            await heard.until(partial(heard.names, key))
        heard.events.clear()
        valkey.call("DEL", "set")
        valkey.call("EXPIRE", "many1", 1000)
        valkey.call("INCR", "many2")
        for key in (b"set", b"short", b"many1", b"many2"):  # short has expired
            await heard.until(partial(heard.names, key))
        assert None not in heard.events
        valkey.call("FLUSHALL")
        await heard.until(lambda: None in heard.events)

    working(valkey.url, work)


def test_rarer_kinds_of_change_are_told(valkey: Valkey) -> None:
    """What copies, moves, restores and scripts do, what expires and what is evicted."""

    async def work(_: ValkeyStore, heard: Heard) -> None:
        valkey.call("SET", "one", 1)
        valkey.call("COPY", "one", "copy")
        valkey.call("RENAME", "copy", "renamed")
        valkey.call("RESTORE", "restored", 0, valkey.call("DUMP", "one"))
        valkey.call("EVAL", "return server.call('SET', KEYS[1], 1)", 1, "script")
        valkey.call("MOVE", "one", 1)
        valkey.call("GETDEL", "script")
        for key in (b"one", b"copy", b"renamed", b"restored", b"script"):
            await heard.until(partial(heard.names, key))
        heard.events.clear()
        valkey.call("CONFIG", "SET", "maxmemory-policy", "allkeys-random", "maxmemory", 1)
        try:
            await heard.until(lambda: heard.names(b"restored") and heard.names(b"renamed"))
        finally:
            valkey.call("CONFIG", "SET", "maxmemory", 0, "maxmemory-policy", "noeviction")
        heard.events.clear()
        valkey.call("FLUSHDB")
        await heard.until(lambda: None in heard.events)

    working(valkey.url, work)


def test_a_small_tracking_table_does_not_matter(valkey: Valkey) -> None:
    """It is for clients that are told of what they read; we are told of everything."""

    async def work(_: ValkeyStore, heard: Heard) -> None:
        for number in range(20):
            valkey.call("SET", f"key {number}", 1)
        for number in range(20):
            await heard.until(partial(heard.names, b"key %d" % number))

    valkey.call("CONFIG", "SET", "tracking-table-max-keys", 1)
    try:
        working(valkey.url, work)
    finally:
        valkey.call("CONFIG", "SET", "tracking-table-max-keys", 1_000_000)


def test_databases_that_are_swapped(valkey: Valkey) -> None:
    """Nobody is told of it, so it is asked for; also where a script or a transaction does it."""

    async def work(store: ValkeyStore, heard: Heard) -> None:
        valkey.call("SET", "key", "old")
        for swap in (
            lambda: valkey.call("SWAPDB", 0, 1),
            lambda: valkey.call("EVAL", "return server.call('SWAPDB', 0, 1)", 0),
        ):
            await heard.until(lambda: heard.is_fresh)
            since = len(heard.events)
            swap()
            await comes_back(heard, since)
        (found,) = await store.load_many(["key"])
        assert found is not None

    working(valkey.url, work)


def test_a_primary_that_becomes_a_replica_is_relied_on_no_more(valkey: Valkey) -> None:
    async def work(_: ValkeyStore, heard: Heard) -> None:
        since = len(heard.events)
        valkey.call("REPLICAOF", "127.0.0.1", 1)
        try:
            await heard.until(lambda: None in heard.events[since:])
            await stays_stale(heard)
        finally:
            valkey.call("REPLICAOF", "NO", "ONE")
        since = len(heard.events)
        await comes_back(heard, since)

    working(valkey.url, work)


def test_a_user_that_may_not_ask_is_served_all_the_same() -> None:
    """Without INFO no swap of databases can be known; docs/stores.md says so."""
    with serve() as own:
        own.call("ACL", "SETUSER", "ada", "on", ">pw", "~*", "&*", "+@all", "-info")

        async def work(_: ValkeyStore, heard: Heard) -> None:
            own.call("SET", "key", 1)
            await heard.until(lambda: heard.names(b"key"))

        working(f"unix://ada:pw@{own.socket}", work)


def test_changes_by_this_store_and_by_another_are_told(valkey: Valkey) -> None:
    async def work(store: ValkeyStore, heard: Heard) -> None:
        async with following(valkey.url, TIMEOUT_SECONDS, STALENESS_SECONDS) as (
            other,
            heard_by_other,
        ):
            await store.save_many([record("mine", 1)])
            await other.increment("other's", 1, 0, 0)
            for each in (heard, heard_by_other):
                for key in (b"mine", b"other's"):
                    await each.until(partial(each.names, key))

    working(valkey.url, work)


def test_only_the_prefix_is_followed_and_it_is_taken_off(valkey: Valkey) -> None:
    async def work(_: ValkeyStore, heard: Heard) -> None:
        valkey.call("SET", "b:key", 1)
        valkey.call("SET", "a:last", 1)
        await heard.until(lambda: heard.names(b"last"))
        assert not heard.names(b"key")
        assert not heard.names(b"b:key")

    working(f"{valkey.url}?prefix=a:", work)


def test_a_change_during_the_first_question_is_told_before_it_is_fresh(tmp_path: Path) -> None:
    """A server answers a PING before it pushes what was changed in the same turn of its loop."""
    asked_ms: list[int] = []
    hello = b"$4\r\nmode\r\n$10\r\nstandalone\r\n"

    served: set[asyncio.StreamWriter] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(writer)
        parser = hiredis.Reader()
        pings = 0
        while data := await reader.read(4096):
            parser.feed(data)
            while words := parser.gets():
                if words[0] == b"HELLO":  # with a version, on the connection that tracks
                    writer.write((b"%1\r\n" if len(words) > 1 else b"*2\r\n") + hello)
                    continue
                writer.write(b"+OK\r\n")
                pings += words[0] == b"PING"
                if pings == 2:  # the first of the first beat; the marks had one
                    asked_ms.append(time.monotonic_ns() // 1_000_000)
                    await asyncio.sleep(0.05)
                    writer.write(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n")
        writer.close()
        served.discard(writer)

    async def main() -> None:
        path = f"{tmp_path}/s"
        async with (
            await asyncio.start_unix_server(serve_one, path),
            following(f"unix://{path}", TIMEOUT_SECONDS, STALENESS_SECONDS) as (_, heard),
        ):
            assert heard.events[:2] == [None, [b"key"]]
            fresh_until_ms = heard.events[2]
            assert isinstance(fresh_until_ms, int)
            assert fresh_until_ms <= asked_ms[0] + STALENESS_SECONDS * 1000
        while served:
            await asyncio.sleep(0.001)

    asyncio.run(main())


def test_cut_connections(valkey: Valkey) -> None:
    async def work(store: ValkeyStore, heard: Heard) -> None:
        await store.save_many([record("key", 1)])
        since = len(heard.events)
        assert valkey.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") >= 2
        await comes_back(heard, since)
        # When it broke off, and before it was fresh.
        assert heard.events[since:].count(None) == 2
        (found,) = await store.load_many(["key"])
        assert found is not None
        valkey.call("SET", "key", 2)
        await heard.until(lambda: heard.names(b"key"))

    working(valkey.url, work)


@pytest.mark.parametrize("stop", ["SIGSTOP", "CLIENT PAUSE"])
def test_a_server_that_stands_still(valkey: Valkey, stop: str) -> None:
    async def work(_: ValkeyStore, heard: Heard) -> None:
        since = len(heard.events)
        if stop == "SIGSTOP":
            valkey.signal(signal.SIGSTOP)
        else:
            valkey.call("CLIENT", "PAUSE", PAUSE_MS, "ALL")  # nobody can end it earlier
        try:
            await stays_stale(heard)
        finally:
            valkey.signal(signal.SIGCONT)
        assert None in heard.events[since:]
        since = len(heard.events)
        await comes_back(heard, since)
        valkey.call("SET", "after", 1)
        await heard.until(lambda: heard.names(b"after"))

    working(valkey.url, work)


def test_a_short_stop_is_bridged(valkey: Valkey) -> None:
    """Shorter than the bound: nothing is thrown away, and what changed meanwhile is told."""

    async def work(_: ValkeyStore, heard: Heard) -> None:
        since = len(heard.events)
        valkey.signal(signal.SIGSTOP)
        await asyncio.sleep(STALENESS_SECONDS / 4)
        valkey.signal(signal.SIGCONT)
        valkey.call("SET", "key", 1)
        await heard.until(lambda: heard.names(b"key"))
        fresh_until_ms = heard.fresh_until_ms
        await heard.until(lambda: heard.fresh_until_ms > fresh_until_ms)
        assert None not in heard.events[since:]

    working(valkey.url, work)


def test_a_killed_server_that_starts_again() -> None:
    async def work(store: ValkeyStore, heard: Heard) -> None:
        await store.save_many([record("key", 1)])
        assert await store.load_many(["key"]) != [None]  # so that it knows the script
        since = len(heard.events)
        own.kill()
        await heard.until(lambda: None in heard.events[since:])
        await stays_stale(heard)
        since = len(heard.events)
        own.start()
        await comes_back(heard, since)
        assert await store.load_many(["key"]) == [None]
        await store.save_many([record("key", 2)])
        assert await store.load_many(["key"]) != [None]

    with serve() as own:
        working(own.url, work)


def test_a_store_that_is_not_there_yet() -> None:
    """A worker starts without its store, and finds it when it comes."""

    async def main() -> None:
        store = ValkeyStore(own.url, TIMEOUT_SECONDS, STALENESS_SECONDS)
        await store.open()
        heard = Heard(store)
        await asyncio.sleep(0.1)
        assert heard.events == []
        own.start()
        await heard.until(lambda: heard.is_fresh)
        await store.close()
        await store.close()

    with serve() as own:
        own.kill()
        uvloop.run(main())


def test_the_bound_can_change(valkey: Valkey) -> None:
    async def work(store: ValkeyStore, heard: Heard) -> None:
        store.tune(TIMEOUT_SECONDS, 50.0)
        await heard.until(lambda: heard.fresh_until_ms > time.monotonic() * 1000 + 40_000)

    working(valkey.url, work)


def test_nothing_is_left_after_close(valkey: Valkey) -> None:
    async def work(store: ValkeyStore, _: Heard) -> None:
        await asyncio.gather(*(store.load_many([f"{number}"]) for number in range(50)))
        assert b"name=kvserve" in valkey.call("CLIENT", "LIST")

    working(valkey.url, work)
    wait_until(lambda: b"name=kvserve" not in valkey.call("CLIENT", "LIST"))
