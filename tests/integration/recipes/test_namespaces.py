"""Namespaces in real processes: cleared for all at once, and never back from the dead.

That they do all that a client does is shown by tests/property/test_client.py.
"""

from __future__ import annotations

import asyncio
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from support.commands import kvserve as kvserve_command
from support.crews import KINDS, TIMEOUT, Member, together
from support.servers import Server, StartServer

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
        assert (
            eu.get_or_set("key", lambda: "new", claim_ttl=3600) == "new"
        )  # and nobody waits for it
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


WAYS: dict[str, dict[str, Any]] = {
    "direct": {}, "worker": {"read": "worker"}, "writer": {"write": "direct"}
}  # fmt: skip


@pytest.fixture(scope="module")
def with_writers(make_module_server: StartServer) -> Server:
    """A server that lets writers in."""
    return make_module_server("--writers", "4")


def chain(cache: Any, names: str) -> list[Any]:
    """The namespaces of these names, each within the one before, behind the client."""
    places = [cache]
    for name in names:
        places.append(places[-1].namespace(name))
    return places


@pytest.mark.parametrize("cleared", [1, 2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_what_was_cleared_inside_is_nowhere(with_writers: Server, way: str, cleared: int) -> None:
    with with_writers.connect(timeout=TIMEOUT, **WAYS[way]) as cache:
        cache.flush()
        places = chain(cache, "abc")
        for depth, place in enumerate(places):
            place.set(f"text {depth}", depth)
            place.set(f"raw {depth}".encode(), depth)
        seen = [set(place.scan()) for place in places]
        places[cleared].clear()
        own = [{f"text {depth}", f"raw {depth}".encode()} for depth in range(4)]
        for depth, place in enumerate(places[1:], 1):
            assert set(place) == set(place.scan()) == (own[depth] if depth < cleared else set())
            # No key that was listed anywhere before leads to what was cleared.
            for keys in seen:
                found = place.get_many(keys)
                assert set(found) == {key for key in keys if key in place} <= own[depth]
                assert found == {key: place.get(key) for key in found}
        listed = {key if isinstance(key, bytes) else key.encode() for key in cache}
        ends = [b"%s %d" % (kind, depth) for kind in (b"text", b"raw") for depth in range(4)]
        assert {end for end in ends if any(key.endswith(end) for key in listed)} == {
            end for end in ends if int(end[-1:]) < cleared
        }
        places[cleared].set("again", 1)
        assert list(places[cleared]) == ["again"]
        assert sum(key.endswith(b"again") for key in map(as_bytes, cache.scan())) == 1
        assert "again" not in places[cleared - 1]


def as_bytes(key: str | bytes) -> bytes:
    """A key as it is stored."""
    return key.encode() if isinstance(key, str) else key


def test_what_was_cleared_inside_is_nowhere_in_asyncio(served: Server) -> None:
    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as cache:
            places = chain(cache, "abc")
            for place in places:
                await place.set("key", 1)
                await place.set(b"raw", 1)
            seen = {key for place in places for key in [each async for each in place]}
            await places[2].clear()
            for place, own in zip(places[1:], [{"key", b"raw"}, set(), set()], strict=True):
                assert {key async for key in place} == {key async for key in place.scan()} == own
                assert set(await place.get_many(seen)) == own & seen
                assert {key for key in seen if await place.contains(key)} == own & seen
            listed = [key async for key in cache if as_bytes(key).endswith((b":key", b":raw"))]
            assert sorted(as_bytes(key)[:3] for key in listed) == [b"a:~"] * 2

    asyncio.run(main())


def test_cleared_keys_are_listed_and_dumped_nowhere(served: Server, cache: kvserve.Client) -> None:
    outer = cache.namespace("outer")
    for place in (outer, outer.namespace("inner")):
        place.set("old", 1)
        place.clear()
        place.set("new", 1)
    cache.set("outer:~not a generation:old", 1)
    cache.set(b"\xff:~0123456789abcdef0123456:old", 1)
    for command in (["keys"], ["dump"]):
        done = kvserve_command(*command, "--name", served.name)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.count(b":old") == 2
        assert done.stdout.count(b":new") == 2


def test_cleared_keys_are_nowhere_with_a_store(make_server: StartServer, tmp_path: Path) -> None:
    server = make_server("--store", f"sqlite:///{tmp_path / 'cache.db'}")
    with server.connect(timeout=TIMEOUT) as cache:
        places = chain(cache, "ab")
        for place in places[1:]:
            place.set("key", 1)
        seen = set(cache.scan())
        places[2].clear()
        cache.flush()  # of the table, so that all is read from the database again
        assert places[1].get("key") == 1
        assert places[2].get("key") is None
        for place in places[1:]:
            assert set(place.get_many(seen | {"key"})) == ({"key"} if place is places[1] else set())
        assert [key for key in cache if as_bytes(key).startswith(b"a::b:")] == []


def test_iteration_is_over_keys_and_there_is_no_length(cache: kvserve.Client) -> None:
    cache.set_many({"a": 1, b"\xff": 2})
    assert set(cache) == {"a", b"\xff"}
    assert sorted(map(str, cache)) == sorted(map(str, list(cache)))
    for place in (cache, cache.namespace("eu")):
        with pytest.raises(TypeError, match="len"):
            len(place)  # type: ignore[arg-type]
        assert place  # also where it is empty
