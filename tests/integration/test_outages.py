"""`on_error="miss"`: the server stops, dies, hangs, comes later; requests go on, no old value does.

Each test runs over the blocking and the asyncio client.
"""

from __future__ import annotations

import logging
import math
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from conftest import Eventually, NewNames
from support import ways
from support.servers import Server, StartServer, stopped

import kvserve

Connect = Callable[..., Any]


@pytest.fixture(params=["forgiving", "async-forgiving"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes a client of a server to which errors are misses, closed after the test."""
    with ExitStack() as stack:

        def make(name: str, **options: Any) -> Any:
            cache = ways.connect(request.param, name, **options)
            stack.callback(cache.close)
            return cache

        yield make


def lost(cache: Any) -> kvserve.Lost:
    """The counts of a client, of either kind."""
    found: kvserve.Lost = getattr(cache, "_client", cache).lost
    return found


def answers(cache: Any) -> Callable[[], bool]:
    """Whether the client's breaker is closed, and nothing is left to tell."""
    return lambda: lost(cache).error is None


def test_what_each_method_returns(server: Server, connect: Connect) -> None:
    cache = connect(server.name)
    cache.set_many({"kept": "text", "old": 2, "gone": 3, "number": 4, "touched": 5})
    inner = cache.namespace("inner")
    inner.set("kept", "inner")
    version = cache.gets("kept")[1]
    server.stop()
    assert cache.set("old", 9) == 0
    assert cache.delete("gone") is False
    assert cache.touch("touched", 60) is False
    assert cache.add("new", 1) is False
    assert cache.replace("replaced", 1) is False
    assert cache.delete_many(["gone", "more"]) == 0
    assert cache.set_many({"many": 1, "old": 10}) is None
    lost_ones = ["old", "gone", "touched", "new", "replaced", "more", "many"]
    for key in lost_ones:
        assert cache.get(key, "-") == "-"
        assert cache.get(key.encode()) is None  # the same key
        assert cache.gets(key, "-") == ("-", None)
        assert cache.ttl(key) is None
        assert not cache.contains(key)
    assert cache.get_many([*lost_ones, "kept"]) == {"kept": "text"}
    assert cache.get("kept") == "text"  # from the kept table
    assert cache.gets("kept") == ("text", version)
    assert cache.ttl("kept") == math.inf
    with cache.pipeline() as batch:
        batch.get("kept", "-").set("batched", 1).delete("kept").ttl("kept").gets("kept", "-")
    assert batch.results == ["-", 0, False, None, ("-", None)]
    assert cache.get("kept") is None
    assert inner.get("kept") == "inner"
    inner.delete("kept")
    assert inner.get("kept") is None
    counts = lost(cache)
    assert counts.writes == 9
    assert counts.reads == 1
    assert counts.keys == len(lost_ones) + 3
    assert counts.error is not None
    assert "is running" in counts.error


def test_what_raises_as_ever(server: Server, connect: Connect) -> None:
    cache = connect(server.name)
    version = cache.set("number", 4)
    server.stop()
    cache.delete("gone")

    def batch() -> None:
        with cache.pipeline() as collected:
            collected.set("a", 1).incr("number")

    needed: list[Callable[[], Any]] = [
        lambda: cache.incr("number"),
        lambda: cache.decr("number"),
        lambda: cache.cas("number", 5, version),
        lambda: list(cache.scan()),
        lambda: cache.stats(),
        lambda: cache.ping(),
        lambda: cache.verify(),
        batch,
        lambda: cache.namespace("n").incr("number"),
    ]
    for each in needed:
        with pytest.raises(kvserve.ServerUnavailable):
            each()
    wrong: list[Callable[[], Any]] = [
        lambda: cache.get(""),
        lambda: cache.get(5),
        lambda: cache.get_many("abc"),
        lambda: cache.set("", 1),
        lambda: cache.set("a", object()),
        lambda: cache.set("a", "x" * 2**20),
        lambda: cache.set("a", 1, -1),
        lambda: cache.set_many({"a": object()}),
        lambda: cache.set_many({"": 1}),
        lambda: cache.set_many({"a": 1}, -1),
        lambda: cache.delete_many([""]),
        lambda: cache.delete("a", -1),
        lambda: cache.namespace("n").get(""),
    ]
    before = lost(cache).writes
    for each in wrong:
        with pytest.raises(kvserve.MisuseError):
            each()
    assert lost(cache).writes == before


@pytest.mark.parametrize("way", ["stop", "kill", "kill all", "fresh"])
def test_the_server_is_told(
    server: Server, make_server: StartServer, connect: Connect, eventually: Eventually, way: str
) -> None:
    """Then the keys are gone for everybody, and the client reads and writes as before."""
    cache = connect(server.name)
    cache.set_many({"kept": 1, "old": 2, "gone": 3})
    cache.namespace("n").set("cleared", 1)
    if way == "stop":
        server.stop()
    elif way == "kill":
        server.stop(signal.SIGKILL)
    else:
        server.kill_everything()
    eventually(lambda: cache.set("old", 9) == 0)  # workers outlive their parent for a moment
    cache.delete("gone")
    cache.namespace("n").clear()
    assert cache.namespace("n").get("cleared") is None
    flags = ["--fresh", "--workers", "1"] if way == "fresh" else []
    make_server(*flags, names=server.names)
    eventually(answers(cache))
    assert lost(cache)[2:] == (0, False, None)
    with server.connect() as other:
        assert other.get_many(["kept", "old", "gone"]) == ({} if way == "fresh" else {"kept": 1})
        assert other.namespace("n").get("cleared") is None
    assert cache.set("old", 10) > 0
    assert cache.get("old") == 10
    assert cache.incr("number") == 1


@pytest.mark.parametrize("which", [0, 1])
def test_a_worker_that_hangs(
    server: Server, connect: Connect, eventually: Eventually, which: int
) -> None:
    """The first request waits for it, and no other: a thousand would take hours."""
    cache = connect(server.name, timeout=10.0)
    keys = [f"key-{number}" for number in range(20)]
    cache.set_many(dict.fromkeys(keys, "old"))
    getattr(cache, "_client", cache)._workers.timeout = 0.2
    with stopped(server.worker_pids[which]):
        for key in keys:  # some are the other worker's, until the first is this one's
            cache.delete(key)
        getattr(cache, "_client", cache)._workers.timeout = 10.0
        assert lost(cache).error is not None
        for number in range(2000):
            cache.set(f"more-{number % 100}", number)
            assert cache.get("key-19") is None
    eventually(answers(cache))
    with server.connect() as other:
        assert other.get_many(keys) == {}
        assert other.get_many([f"more-{number}" for number in range(100)]) == {}
    assert cache.set("key-1", "new") > 0
    assert cache.get("key-1") == "new"


def test_a_server_that_comes_later(
    new_names: NewNames, make_server: StartServer, connect: Connect, eventually: Eventually
) -> None:
    names = new_names()
    cache = connect(names.name, lazy=True)
    assert cache.get("key", "-") == "-"
    assert cache.get_many(["key"]) == {}
    assert cache.set("key", 1) == 0
    assert cache.get_or_set("computed", lambda: 42) == 42
    assert cache.get("computed") is None
    assert cache.namespace("n").get("key") is None
    make_server(names=names)
    eventually(answers(cache))
    assert cache.set("key", 2) > 0
    assert cache.get("key") == 2
    assert cache.get_or_set("computed", lambda: 43) == 43
    assert cache.get("computed") == 43


@pytest.mark.parametrize("is_flush", [True, False])
def test_everything_is_missing_after_a_lost_flush(
    server: Server,
    make_server: StartServer,
    connect: Connect,
    eventually: Eventually,
    is_flush: bool,
) -> None:
    """And when more keys were lost than are remembered."""
    cache = connect(server.name)
    cache.set_many({"a": 1, "b": 2})
    server.stop()
    if is_flush:
        cache.flush()
    else:
        getattr(cache, "_client", cache)._outage.keys._keys_max = 10
        cache.delete_many([f"key-{number}" for number in range(11)])
    assert lost(cache).everything
    assert cache.get("a") is None
    assert cache.get_many(["a", "b"]) == {}
    cache.set("c", 3)
    assert lost(cache).everything
    make_server(names=server.names)
    eventually(answers(cache))
    assert not lost(cache).everything
    with server.connect() as other:
        assert list(other.scan()) == []


def test_computing_goes_on(
    server: Server, make_server: StartServer, connect: Connect, eventually: Eventually
) -> None:
    """Each caller computes, nobody stores; a stale value does as long as there is one."""
    cache = connect(server.name)
    computed: list[str] = []

    def compute(what: str) -> str:
        computed.append(what)
        return what

    assert cache.get_or_set("stale", lambda: compute("first"), 0.1, stale=60) == "first"
    time.sleep(0.2)
    server.stop()
    assert cache.get_or_set("stale", lambda: compute("second"), 0.1, stale=60) == "first"
    assert cache.get_or_set("absent", lambda: compute("third"), 5) == "third"
    assert cache.get_or_set("absent", lambda: compute("fourth"), 5) == "fourth"
    cache.delete("stale")
    assert cache.get_or_set("stale", lambda: compute("fifth"), 0.1, stale=60) == "fifth"
    assert computed == ["first", "third", "fourth", "fifth"]
    with pytest.raises(ZeroDivisionError):
        cache.get_or_set("absent", lambda: 1 // 0)
    make_server(names=server.names)
    eventually(answers(cache))
    assert cache.get_or_set("absent", lambda: compute("sixth"), 5) == "sixth"
    assert cache.get("absent") == "sixth"


def test_a_server_that_ends_while_a_value_is_computed(server: Server, connect: Connect) -> None:
    cache = connect(server.name)

    def compute() -> int:
        server.stop()
        return 7

    assert cache.get_or_set("key", compute, 60) == 7
    assert cache.get("key") is None


def test_a_forked_child_remembers(server: Server, make_server: StartServer) -> None:
    """What its parent lost; and it tells the server itself, as its parent may be gone."""
    cache = server.connect(on_error="miss")
    cache.set_many({"old": 1, "kept": 2})
    server.stop()
    cache.delete("old")
    cache._outage.is_over = True  # the parent tells nobody
    go, went = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            cache._outage.is_over = False
            os.write(went[1], repr((cache.get("old"), cache.get("kept"))).encode())
            os.read(go[0], 1)
            while cache.get("old") is None and cache.lost.keys:
                time.sleep(0.01)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.read(went[0], 100) == b"(None, 2)"
    make_server(names=server.names)
    os.write(go[1], b"!")
    assert os.waitpid(pid, 0)[1] == 0
    with server.connect() as other:
        assert other.get_many(["old", "kept"]) == {"kept": 2}
    for descriptor in (*go, *went):
        os.close(descriptor)
    cache.close()


def test_locks_and_limiters_raise(server: Server) -> None:
    with server.connect(on_error="miss") as cache:
        lock = cache.lock("job", ttl=30)
        server.stop()
        with pytest.raises(kvserve.ServerUnavailable):
            lock.acquire(timeout=1)
        with pytest.raises(kvserve.ServerUnavailable):
            cache.limiter("login", rate=1, per=60).hit("Ada")
        with pytest.raises(KeyError):
            cache["nobody"]
        del cache["lost"]  # it may have been there
        assert cache.lost.keys == 1


def test_it_is_logged_once_a_second(
    server: Server, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    cache = connect(server.name)
    server.stop()
    with caplog.at_level(logging.WARNING, "kvserve"):
        began = time.monotonic()
        while time.monotonic() < began + 1.5:
            cache.set("key", 1)
        seconds = time.monotonic() - began
    assert 1 <= len(caplog.records) <= 1 + seconds
    assert "writes are lost" in caplog.text


def test_no_old_value_is_ever_read(
    server: Server, make_server: StartServer, connect: Connect, eventually: Eventually, seed: int
) -> None:
    """Any changes, through any ends of the server: a read gives what was written last, or nothing;
    and what was written while the server answered, exactly."""
    chance = random.Random(seed)
    cache = connect(server.name)
    spaces = [cache, cache.namespace("n")]
    keys = [f"key-{number}" for number in range(8)]
    last: dict[tuple[int, str], int | None] = {}

    def change(number: int) -> None:
        at, key = chance.randrange(2), chance.choice(keys)
        kind = chance.choice(["set", "delete", "set_many", "clear", "pipeline", "add"])
        if kind == "set":
            spaces[at].set(key, number)
        elif kind == "delete":
            spaces[at].delete(key)
        elif kind == "set_many":
            spaces[at].set_many({key: number})
        elif kind == "pipeline":
            with spaces[at].pipeline() as batch:
                batch.set(key, number)
        elif kind == "add":
            if not spaces[at].add(key, number) and spaces[at].get(key) is not None:
                return
        else:
            spaces[1].clear()
            last.update({(1, each): None for each in keys})
            return
        last[at, key] = None if kind == "delete" else number

    def look() -> None:
        at, key = chance.randrange(2), chance.choice(keys)
        found = spaces[at].get(key)
        assert found is None or found == last.get((at, key)), (at, key)
        found = spaces[at].get_many(keys)
        assert all(last.get((at, key)) == value for key, value in found.items())

    def go_on(running: Server, turns: range) -> None:
        for number in turns[:150]:
            change(number)
            look()
        running.kill_everything() if chance.random() < 0.5 else running.stop()
        for number in turns[150:300]:
            change(number)
            look()
        running = make_server(names=server.names)
        eventually(answers(cache))
        for number in turns[300:]:
            assert cache.set("key-0", number) > 0
            last[0, "key-0"] = number
            assert cache.get("key-0") == number
        if turns.stop < 1300:
            go_on(running, range(turns.stop, turns.stop + 320))

    go_on(server, range(1, 321))
