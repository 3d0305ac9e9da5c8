"""Tags in real processes: invalidated for all at once, and never back from the dead."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from support import ways
from support.commands import kvserve as kvserve_command
from support.crews import KINDS, TIMEOUT, Member, together
from support.servers import Server, StartServer

import kvserve
from kvserve.client.admin import dump as dumping
from kvserve.client.recipes.tags import tag_keys
from kvserve.errors import InvalidArgument, InvalidValue
from kvserve.protocol import codec, commands

WAYS = ("direct", "worker-queue", "writer", "async", "async-writer")
TAGS = ["a", "b", "c"]
KEYS = [f"key {number}" for number in range(6)]
STEPS = 500


def record_of(tag: str) -> str:
    """The key of a tag's record."""
    (key,) = tag_keys((), [tag])
    return key


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


class Model:
    """What the values are, with the tags that they hang on: in a namespace, and outside."""

    def __init__(self) -> None:
        self.held: dict[tuple[bool, str], tuple[int, set[str]]] = {}

    def invalidate(self, inside: bool, tag: str) -> None:
        """Forgets all with this tag."""
        for key, (_, tags) in list(self.held.items()):
            if key[0] == inside and tag in tags:
                del self.held[key]

    def clear(self, inside: bool | None = None) -> None:
        """Forgets all, or all inside, or all outside."""
        self.held = {key: each for key, each in self.held.items() if inside not in (None, key[0])}


@pytest.mark.parametrize("seed", range(3))
def test_every_client_sees_what_any_client_invalidated(clients: list[Any], seed: int) -> None:
    chance = random.Random(seed)
    model = Model()
    places = [(each, each.namespace("inside")) for each in clients]
    for step in range(STEPS):
        inside, key, tag = chance.random() < 0.5, chance.choice(KEYS), chance.choice(TAGS)
        place = chance.choice(places)[inside]
        tags = chance.sample(TAGS, chance.randrange(len(TAGS) + 1))
        match chance.randrange(20):
            case 0 | 1:
                place.invalidate_tag(tag)
                model.invalidate(inside, tag)
            case 2:  # as an eviction of its record does
                chance.choice(places)[0].delete(record_of(tag))
                model.invalidate(False, tag)
            case 3:
                chance.choice(places)[0].set(record_of(tag), chance.choice([1, "odd", -1]))
                model.invalidate(False, tag)
            case 4 if chance.random() < 0.3:
                place.clear() if inside else place.flush()
                model.clear(True if inside else None)
            case 5 | 6:
                added = place.add(key, step, tags=tags)
                assert added == ((inside, key) not in model.held)
                if added:
                    model.held[inside, key] = (step, set(tags))
            case 7:
                there = (inside, key) in model.held
                assert place.incr(key, 1000, initial=None) == (
                    model.held[inside, key][0] + 1000 if there else None
                )
                if there:
                    model.held[inside, key] = (model.held[inside, key][0] + 1000, *model.held[
                        inside, key][1:])  # fmt: skip
            case 8:
                chosen = chance.sample(KEYS, 3)
                place.set_many(dict.fromkeys(chosen, step), tags=tags)
                model.held |= {(inside, each): (step, set(tags)) for each in chosen}
            case 9 | 10 | 11 | 12:
                place.set(key, step, chance.choice([None, 60]), tags=tags)
                model.held[inside, key] = (step, set(tags))
            case 13:
                place.touch(key, 60)
            case _:
                pass
        for number, both in enumerate(places):
            for where, each in zip((False, True), both, strict=True):
                held = {k: model.held[where, k][0] for k in KEYS if (where, k) in model.held}
                assert each.get_many(KEYS) == held, (seed, step, WAYS[number], where)
                assert each.get(key) == held.get(key), (seed, step, WAYS[number], where)
    assert clients[0].verify() == []


@pytest.mark.parametrize("kind", KINDS)
def test_invalidation_by_another_process_is_seen_by_the_next_read(
    kind: str, server: Server
) -> None:
    def invalidate(pipe: Connection) -> None:
        async def main() -> None:
            async with await kvserve.connect_async(server.name, timeout=TIMEOUT) as cache:
                while pipe.recv():
                    await cache.invalidate_tag("a")
                    pipe.send("done")

        if kind == "asyncio":
            asyncio.run(main())
            return
        with server.connect(timeout=TIMEOUT) as cache:
            while pipe.recv():
                cache.invalidate_tag("a")
                pipe.send("done")

    other = Member(invalidate)
    try:
        with server.connect(timeout=TIMEOUT) as cache:
            for number in range(200):
                cache.set("key", number, tags=["a"])
                assert cache.get("key") == number
                other.tell(True)
                other.hear()
                assert cache.get("key") is None
    finally:
        other.end()


@pytest.mark.parametrize("recipe", ["get_or_set", "memoize", "memoize a function of arguments"])
@pytest.mark.parametrize("kind", KINDS)
def test_generation_is_read_before_the_factory_runs(kind: str, recipe: str, server: Server) -> None:
    """Invalidated while the factory runs: the caller gets the value, and nobody else does."""
    computed: list[int] = []
    with server.connect(timeout=TIMEOUT) as other:

        def factory(number: int = 7) -> int:
            computed.append(number)
            if len(computed) == 1:
                other.invalidate_tag("tag 7")
            return len(computed)

        def blocking() -> list[int]:
            if recipe == "get_or_set":
                return [other.get_or_set("key", factory, tags=["tag 7"]) for _ in range(3)]
            tags: Any = ["tag 7"] if recipe == "memoize" else lambda number: [f"tag {number}"]
            memoized = other.memoize(key=lambda _: "key", tags=tags)(factory)
            return [memoized(7) for _ in range(3)]

        async def with_asyncio() -> list[int]:
            async def coroutine(number: int = 7) -> int:
                return factory(number)

            async with await kvserve.connect_async(server.name, timeout=TIMEOUT) as cache:
                if recipe == "get_or_set":
                    return [
                        await cache.get_or_set("key", coroutine, tags=["tag 7"]) for _ in range(3)
                    ]
                tags: Any = ["tag 7"] if recipe == "memoize" else lambda number: [f"tag {number}"]
                memoized = cache.memoize(key=lambda _: "key", tags=tags)(coroutine)
                return [await memoized(7) for _ in range(3)]

        found = blocking() if kind == "blocking" else asyncio.run(with_asyncio())
        assert found == [1, 2, 2]
        other.invalidate_tag("tag 7")
        assert other.get("key") is None


def test_tags_of_a_namespace_are_its_own(server: Server) -> None:
    with server.connect(timeout=TIMEOUT) as cache:
        outer = cache.namespace("a")
        places = [cache, outer, outer.namespace("b"), cache.namespace("b")]
        for invalidated in places:
            for place in places:
                place.set("key", 1, tags=["t"])
                assert place.get_or_set("computed", lambda: 2, tags=["t"]) == 2
            invalidated.invalidate_tag("t")
            for place in places:
                gone = place is invalidated
                assert (place.get("key") is None) == (place.get("computed") is None) == gone
        outer.set("key", 1, tags=["t"])
        outer.clear()
        assert outer.get("key") is None


def test_tags_function_that_fails_lets_the_next_caller_compute(server: Server) -> None:
    with server.connect(timeout=TIMEOUT) as cache:
        for bad in (lambda _: 1 // 0, lambda _: "text"):
            with pytest.raises((ZeroDivisionError, InvalidArgument)):
                cache.memoize(key=lambda _: "key", tags=bad)(lambda number: number)(1)
        assert cache.get_or_set("key", lambda: 5) == 5


def test_processes_that_begin_a_tag_together_begin_one(server: Server) -> None:
    def work(number: int) -> None:
        with server.connect(timeout=TIMEOUT) as cache:
            cache.set(f"key {number}", number, tags=["new"])

    together(6, work)
    with server.connect(timeout=TIMEOUT) as cache:
        keys = [f"key {number}" for number in range(6)]
        assert len(cache.get_many(keys)) == 6
        cache.invalidate_tag("new")
        assert cache.get_many(keys) == {}


def test_evicted_record_of_a_tag_makes_its_values_misses(make_server: StartServer) -> None:
    server = make_server("--memory", "1MiB", "--workers", "1")
    with server.connect(timeout=TIMEOUT) as cache:
        cache.set("key", "value", tags=["a"])
        number = 0
        while record_of("a") in cache:
            cache.set_many({f"filler {number + n}": "x" * 200 for n in range(100)})
            number += 100
        assert cache.get("key") is None
        cache.set("other", 1, tags=["a"])
        assert (cache.get("key"), cache.get("other")) == (None, 1)


def test_reads_of_a_value_keep_its_tags(make_server: StartServer) -> None:
    server = make_server("--memory", "1MiB", "--workers", "1")
    with server.connect(timeout=TIMEOUT) as cache:
        cache.set("key", "value", tags=["a", "b"])
        for number in range(0, 60_000, 100):
            cache.set_many({f"filler {number + n}": "x" * 200 for n in range(100)})
            for _ in range(20):
                assert cache.get("key") == "value", number
        assert cache.stats()["evictions"] > 20_000
        assert cache.verify() == []


def test_sweeper_collects_what_was_invalidated(make_server: StartServer) -> None:
    server = make_server("--workers", "1")
    with server.connect(timeout=TIMEOUT) as cache:
        cache.set_many({f"key {number}": number for number in range(100)}, tags=["a"])
        events = cache.watch("key", timeout=TIMEOUT)
        cache.invalidate_tag("a")
        kinds = [next(events).kind for _ in range(100)]
        assert kinds == ["expire"] * 100
        assert cache.stats()["items"] == 0


def test_restart_keeps_tags(make_server: StartServer) -> None:
    server = make_server()
    with server.connect(timeout=TIMEOUT) as cache:
        cache.set("key", 1, tags=["a"])
        cache.set("gone", 1, tags=["b"])
        cache.invalidate_tag("b")
        server.stop()
        make_server(names=server.names)
        assert cache.get_many(["key", "gone"]) == {"key": 1}
        cache.invalidate_tag("a")
        assert cache.get("key") is None


def test_dump_leaves_out_what_has_tags(server: Server, tmp_path: Path) -> None:
    with server.connect(timeout=TIMEOUT) as cache:
        cache.set("plain", 1)
        cache.set("tagged", 2, tags=["a"])
        for options in ({}, {"read": "worker"}, {"write": "direct"}):
            with server.connect(timeout=TIMEOUT, **options) as other:  # type: ignore[arg-type]
                assert [item.key for item in dumping.dump(other)] == ["plain"]
        file = tmp_path / "dump"
        assert kvserve_command("dump", str(file), "--name", server.name).returncode == 0
        cache.invalidate_tag("a")
        assert kvserve_command("load", str(file), "--name", server.name).returncode == 0
        assert (cache.get("plain"), cache.get("tagged")) == (1, None)
        item = dumping.Item(record_of("a"), codec.COUNTER, bytes(8), 0)
        tally = dumping.load(cache, [item])
        assert (tally.loaded, tally.refused) == (0, 1)


def test_commands_see_no_value_that_was_invalidated(server: Server) -> None:
    with server.connect(timeout=TIMEOUT) as cache:
        cache.set("key", "value", tags=["a"])
        get = ["get", "key", "--name", server.name]
        assert kvserve_command(*get).stdout.strip() == b"value"
        assert kvserve_command("delete", record_of("a"), "--name", server.name).returncode == 0
        assert kvserve_command(*get).returncode == 1
        assert kvserve_command("keys", "--name", server.name).stdout == b""


@pytest.mark.parametrize("kind", KINDS)
def test_server_with_a_store_refuses_tags(
    kind: str, make_server: StartServer, tmp_path: Path
) -> None:
    server = make_server("--store", f"sqlite:///{tmp_path / 'cache.db'}")
    called: list[int] = []
    cache = ways.connect("direct" if kind == "blocking" else "async", server.name)
    for place in (cache, cache.namespace("eu")):
        for change in (
            lambda at: at.set("key", 1, tags=["a"]),
            lambda at: at.set_many({"key": 1}, tags=["a"]),
            lambda at: at.get_or_set("key", lambda: called.append(1), tags=["a"]),
            lambda at: at.invalidate_tag("a"),
        ):
            with pytest.raises(InvalidArgument, match="store"):
                change(place)
        assert place.get("key") is None
    assert called == []
    operation = cache.namespace("x")._operations if kind == "blocking" else None
    if operation is not None:  # and its workers do, whatever a client says
        marks = (1).to_bytes(8, "little") + bytes(16)
        for name, more in (("set", ()), ("add", ()), ("replace", ()), ("cas", (1,))):
            with pytest.raises(InvalidArgument, match="store"):
                cache._run(getattr(operation, name)("key", 1, *more, marks=marks))
    cache.close()


@pytest.mark.parametrize(
    "payload",
    [b"", b"\1", bytes(24), b"\2" + bytes(23), b"\20" + bytes(7 + 16 * 16), b"\1" + bytes(23)],
)
def test_workers_refuse_impossible_tags(server: Server, payload: bytes) -> None:
    with server.connect(timeout=TIMEOUT) as cache:
        for number in (codec.BYTES, codec.COUNTER, codec.TEXT, codec.MSGPACK, 99):
            arguments = ("key", number | codec.TAGGED, payload, 0)
            if payload == b"\1" + bytes(23) and number in (codec.BYTES, codec.TEXT):
                cache._ask(commands.SET, arguments)  # one tag, whose generation nothing has
            else:
                with pytest.raises(InvalidValue):
                    cache._ask(commands.SET, arguments)
            assert cache.get("key") is None
        assert cache.verify() == []
