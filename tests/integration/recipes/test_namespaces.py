"""Namespaces in real processes: cleared for all at once, and never back from the dead.

That they do all that a client does is shown by tests/property/test_client.py.
"""

from __future__ import annotations

import asyncio
import time
from multiprocessing.connection import Connection
from typing import Any

import pytest
from crews import KINDS, TIMEOUT, Member, together
from servers import Server, StartServer

import kvserve
from kvserve.errors import InvalidArgument, InvalidKey

PROCESSES = 6


def follow(kind: str, name: str, pipe: Connection) -> None:
    """Reads `key` of a namespace whenever it is told to, with one namespace object."""
    if kind == "blocking":
        with kvserve.connect(name, timeout=TIMEOUT) as cache:
            eu = cache.namespace("eu")
            while pipe.recv():
                pipe.send(eu.get("key"))
        return

    async def main() -> None:
        async with await kvserve.connect_async(name, timeout=TIMEOUT) as cache:
            eu = cache.namespace("eu")
            while pipe.recv():
                pipe.send(await eu.get("key"))

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_clear_is_seen_by_other_processes_and_for_ever(
    kind: str, served: Server, cache: kvserve.Client
) -> None:
    eu = cache.namespace("eu")
    reader = Member(lambda pipe: follow(kind, served.name, pipe))

    def read() -> Any:
        reader.tell(True)
        return reader.hear()

    try:
        assert read() is None
        eu.set("key", "first")
        assert read() == "first"
        eu.clear()
        assert read() is None
        eu.set("key", "second")
        assert read() == "second"
        # The generation is evicted. Whoever comes next begins a new one, not an old one.
        for _ in range(3):
            assert cache.delete("kvserve:generation:eu")
            assert read() is None
            assert eu.get("key") is None
        eu.set("key", "third")
        assert read() == "third"
    finally:
        reader.end()


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_begin_a_namespace_together_begin_one(
    kind: str, served: Server, cache: kvserve.Client
) -> None:
    async def main(number: int) -> None:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:
            await client.namespace("new").set(f"key {number}", number)

    def work(number: int) -> None:
        if kind == "asyncio":
            asyncio.run(main(number))
            return
        with served.connect(timeout=TIMEOUT) as client:
            client.namespace("new").set(f"key {number}", number)

    together(PROCESSES, work)
    new = cache.namespace("new")
    assert new.get_many([f"key {n}" for n in range(PROCESSES)]) == {
        f"key {n}": n for n in range(PROCESSES)
    }


def test_clear_clears_what_is_inside_and_nothing_else(cache: kvserve.Client) -> None:
    outer = cache.namespace("outer")
    inner, other = outer.namespace("inner"), cache.namespace("inner")
    places: list[Any] = [cache, outer, inner, other]
    for place in places:
        place.set("key", "value")
    inner.clear()
    assert [place.get("key") for place in places] == ["value", "value", None, "value"]
    inner.set("key", "again")
    outer.clear()
    assert [place.get("key") for place in places] == ["value", None, None, "value"]
    assert cache.namespace("outer").namespace("inner").get("key") is None


def test_names_do_not_run_into_each_other(cache: kvserve.Client) -> None:
    names = ["a", "a:b", "a%3Ab", "\u00e9", "x" * 100]
    places = [cache.namespace(name) for name in names]
    places.append(cache.namespace("a").namespace("b"))
    for number, place in enumerate(places):
        place.set("key", number)
    assert [place.get("key") for place in places] == list(range(len(places)))
    for place in places:
        place.clear()
        place.set("b:key", None)
        assert list(place.scan()) == ["b:key"]


def test_keys_are_seen_without_what_stands_before_them(cache: kvserve.Client) -> None:
    eu = cache.namespace("eu")
    eu.set_many({"user:1": 1, b"user:\xff": 2, "other": 3})
    assert set(eu.scan("user:")) == {"user:1", b"user:\xff"}
    assert set(eu.scan(b"user:")) == {"user:1", b"user:\xff"}
    assert eu.get_many(["user:1", b"user:1", b"user:\xff", "none"]) == {
        "user:1": 1,
        b"user:1": 1,
        b"user:\xff": 2,
    }
    with pytest.raises(KeyError, match="'nobody'"):
        eu["nobody"]


def test_longest_key_leaves_room_for_the_name(cache: kvserve.Client) -> None:
    eu = cache.namespace("eu")
    eu.set("k" * (1024 - len("eu::") - 24), 1)
    with pytest.raises(InvalidKey):
        eu.set("k" * (1024 - len("eu::") - 23), 1)
    with pytest.raises(InvalidKey):
        eu.get("")


@pytest.mark.parametrize("kind", KINDS)
def test_value_whose_computation_began_before_a_clear_is_not_seen_after_it(
    kind: str, served: Server, cache: kvserve.Client
) -> None:
    def compute(pipe: Connection) -> Any:
        def factory() -> str:
            pipe.send("computing")
            pipe.recv()
            return "old"

        async def main() -> Any:
            async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:
                return await client.namespace("eu").get_or_set("key", factory)

        if kind == "asyncio":
            return asyncio.run(main())
        with served.connect(timeout=TIMEOUT) as client:
            return client.namespace("eu").get_or_set("key", factory)

    eu = cache.namespace("eu")
    computer = Member(compute)
    try:
        computer.hear()
        eu.clear()
        assert eu.get_or_set("key", lambda: "new", lease=3600) == "new"  # and nobody waits for it
        computer.tell()
        assert computer.hear() == "old"
    finally:
        computer.end()
    assert eu.get("key") == "new"


def test_default_ttl_does_not_end_a_generation(
    make_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVSERVE_DEFAULT_TTL", "0.2")
    server = make_server()
    with server.connect() as cache:
        eu = cache.namespace("eu")
        eu.set("key", 1, ttl=60)
        eu.set("short", 1)
        time.sleep(0.3)
        assert (eu.get("key"), eu.get("short")) == (1, None)


@pytest.mark.parametrize("name", ["", None, b"eu", 7])
def test_bad_names(cache: kvserve.Client, name: Any) -> None:
    with pytest.raises(InvalidArgument):
        cache.namespace(name)
