"""Reads in a namespace, which remember where its generations are: they see every change of these.

What they must return is what the plain client returns for the long keys of that moment.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from support import ways
from support.crews import TIMEOUT, Member
from support.servers import Server, StartServer

import kvserve
from kvserve.client.recipes.generations import NamespacePath
from kvserve.errors import ClientClosed, InvalidKey

WAYS = ("direct", "worker-queue", "writer", "async", "async-writer")
PATHS = [("a",), ("a", "b"), ("c",)]
KEYS: list[str | bytes] = ["one", "two", b"\xff", "x" * 40]
STEPS = 400


@pytest.fixture
def server(make_server: StartServer) -> Server:
    """A server that lets writers in."""
    return make_server("--writers", "8")


@pytest.fixture
def clients(server: Server) -> Iterator[list[Any]]:
    """A client by each way, in this process."""
    with ExitStack() as stack:
        opened = [ways.connect(way, server.name) for way in WAYS]
        for each in opened:
            stack.callback(each.close)
        yield opened


def place_of(cache: Any, path: tuple[str, ...]) -> Any:
    """The namespace with this path."""
    for name in path:
        cache = cache.namespace(name)
    return cache


def generation_key(path: tuple[str, ...]) -> str:
    """Where its generation is."""
    return NamespacePath(path).generation_keys[-1]


def reads(place: Any) -> list[Callable[[Any], Any]]:
    """All ways to read a key of a namespace."""
    return [place.get, place.gets, place.contains, lambda key: place.get_many([key])]


class Model:
    """What each namespace holds."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, ...], dict[Any, Any]] = {path: {} for path in PATHS}

    def forget(self, path: tuple[str, ...]) -> None:
        """Empties a namespace and those in it."""
        for each, values in self.held.items():
            if each[: len(path)] == path:
                values.clear()


def changes(cache: Any, path: tuple[str, ...], chance: random.Random) -> list[Callable[[], Any]]:
    """All that empties a namespace."""
    key = generation_key(path)
    odd: list[Any] = ["odd", "~" * 23 + "\u00e9", b"~" * 24, 7, ["~"]]
    return [
        place_of(cache, path).clear,
        lambda: cache.delete(key),
        lambda: cache.set(key, chance.choice(odd), math.inf),
        lambda: cache.set(key, "~" + chance.randbytes(12).hex()[:23], 3600),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_every_client_sees_what_any_client_did(clients: list[Any], seed: int) -> None:
    chance = random.Random(seed)
    places = [{path: place_of(each, path) for path in PATHS} for each in clients]
    model = Model()
    for step in range(STEPS):
        client, path, key = chance.randrange(len(WAYS)), chance.choice(PATHS), chance.choice(KEYS)
        cache, place = clients[client], places[client][path]
        match chance.randrange(12):
            case 0:
                chance.choice(changes(cache, path, chance))()
                model.forget(path)
            case 1 if chance.random() < 0.3:
                cache.flush()
                model = Model()
            case 2:
                cache.touch(generation_key(path), chance.choice([3600, None]))
            case 3 | 4 | 5:
                place.set(key, step)
                model.held[path][key] = step
            case _:
                pass
        for number, mine in enumerate(places):
            held = model.held[path]
            assert mine[path].get(key, "-") == held.get(key, "-"), (seed, step, WAYS[number])
            found = mine[path].get_many(KEYS)
            assert found == held, (seed, step, WAYS[number])
            assert mine[path].gets(key)[0] == held.get(key)
            assert (key in mine[path]) == (key in held)


def test_clear_by_another_process_is_seen_by_the_next_read(server: Server) -> None:
    def clear(pipe: Any) -> None:
        with server.connect(timeout=TIMEOUT) as cache:
            while pipe.recv():
                cache.namespace("a").clear()
                pipe.send("cleared")

    other = Member(clear)
    try:
        with server.connect(timeout=TIMEOUT) as cache:
            inner = cache.namespace("a").namespace("b")
            for number in range(200):
                inner.set("key", number)
                assert inner.get("key") == number
                other.tell(True)
                other.hear()
                assert inner.get("key") is None
                assert inner.get_many(["key"]) == {}
    finally:
        other.end()


@pytest.mark.parametrize("name_bytes", [1, 2, 3, 6, 15, 16, 17, 40, 900])
def test_names_and_keys_of_all_lengths(server: Server, name_bytes: int) -> None:
    with server.connect(timeout=TIMEOUT) as cache:
        for path in [("n" * name_bytes,), ("m", "n" * name_bytes)]:
            place = place_of(cache, path)
            longest = 1024 - len(place._prefix())
            lengths = {*range(1, 36), longest}
            values = {"k" * length: length for length in lengths if length <= longest}
            place.set_many(values)
            assert {key: place.get(key) for key in values} == values
            assert place.get_many(values) == values
            assert {key: cache.get(place._prefix() + key) for key in values} == values
            for key in ("k" * (longest + 1), "k" * 1025, "", None, "\ud800"):
                for read in reads(place):
                    with pytest.raises(InvalidKey):
                        read(key)


def test_reads_keep_a_generation_and_follow_it_through_the_logs(make_server: StartServer) -> None:
    server = make_server("--memory", "1MiB", "--workers", "1")
    with server.connect(timeout=TIMEOUT) as cache:
        place = place_of(cache, ("a", "b"))
        place.set("key", "value")
        prefix = place._prefix()
        for number in range(60_000):  # some thirty times as much as there is room for
            if number % 100 == 0:
                cache.set_many({f"filler {number + n}": "x" * 200 for n in range(100)})
            if number % 5 == 0:
                place.get("key")
            if number % 1000 == 0:
                place.set("key", "value")
        assert cache.stats()["evictions"] > 20_000
        assert place.get("key") == "value"
        assert place._prefix() == prefix


def test_evicted_generation_makes_all_a_miss(make_server: StartServer) -> None:
    server = make_server("--memory", "1MiB", "--workers", "1")
    with server.connect(timeout=TIMEOUT) as cache:
        place = cache.namespace("a")
        place.set("key", "value")
        prefix, number = place._prefix(), 0
        while generation_key(("a",)) in cache:
            cache.set_many({f"filler {number + n}": "x" * 200 for n in range(100)})
            number += 100
        cache.set(prefix + "key", "old")
        assert place.get("key") is None
        place.set("key", "new")
        assert (place.get("key"), cache.get(prefix + "key")) == ("new", "old")


def test_namespace_follows_its_client_to_another_table(make_server: StartServer) -> None:
    server = make_server()
    cache = server.connect(timeout=TIMEOUT)
    place = cache.namespace("a")
    place.set("key", "old")
    assert place.get("key") == "old"
    server.stop()
    assert place.get("key") == "old"
    make_server("--fresh", names=server.names)
    assert place.get("key") is None
    place.set("key", "new")
    assert place.get("key") == "new"
    cache.close()
    for read in reads(place):
        with pytest.raises(ClientClosed):
            read("key")


def test_hits_of_an_asyncio_namespace_await_nothing(server: Server) -> None:
    async def main() -> None:
        async with await kvserve.connect_async(server.name, timeout=TIMEOUT) as cache:
            place = cache.namespace("a").namespace("b")
            await place.set("key", "value")
            for read in (place.get("key"), place.get_many(["key"]), place.contains("key")):
                with pytest.raises(StopIteration):  # at the first step: it does not suspend
                    read.send(None)

    asyncio.run(main())


def test_hit_counts_as_one(server: Server) -> None:
    with server.connect(timeout=TIMEOUT) as cache:
        place = cache.namespace("a").namespace("b")
        place.set("key", "value")
        place.get("key")
        before = cache._reads()
        for _ in range(10):
            place.get("key")
            place.get("nobody")
        after = cache._reads()
        assert (after[0] - before[0], after[1] - before[1]) == (10, 10)


def test_generation_that_expires_takes_all_with_it(server: Server) -> None:
    with server.connect(timeout=TIMEOUT) as cache:
        place = cache.namespace("a")
        place.set("key", 1)
        cache.touch(generation_key(("a",)), 0.3)
        assert place.get("key") == 1
        while generation_key(("a",)) in cache:
            time.sleep(0.05)
        assert place.get("key") is None
        place.set("key", 2)
        assert place.get("key") == 2
