"""The change feed of real servers: both clients' `watch`, and the command."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import uvloop
from support.commands import COMMAND, environment, kvserve
from support.servers import Server, StartServer

import kvserve as api
from kvserve.errors import ClientClosed, InvalidArgument, ServerUnavailable

WRITERS = 4
SETS = 500
PATIENCE_SECONDS = 20.0  # a watcher that hears nothing gives up, and the test fails
FEED = ("--feed-size", "64KiB")

Command = subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def server(make_module_server: StartServer) -> Server:
    """One server for the tests that neither end nor fill it. Each uses keys of its own."""
    return make_module_server()


@pytest.fixture
def cache(server: Server) -> Iterator[Any]:
    """A client of it."""
    with server.connect() as cache:
        yield cache


@pytest.fixture
def command() -> Iterator[Callable[..., Command]]:
    """Starts `kvserve watch` with its output in a pipe; ends what still runs."""
    started: list[Command] = []

    def start(server: Server, *arguments: str) -> Command:
        line = [*COMMAND, "watch", "--name", server.name, "--since", "oldest", *arguments]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(line, stdout=pipe, stderr=pipe, env=environment()))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def take(events: Iterator[Any], count: int) -> list[tuple[str, Any]]:
    """So many events, their kinds and keys."""
    return [(event.kind, event.key) for event in islice(events, count)]


def test_every_command_is_told(make_server: StartServer) -> None:
    with make_server("--workers", "1").connect() as cache:
        watch_every_command(cache)


def watch_every_command(cache: Any) -> None:
    """Changes the cache in all ways, and looks at what is told of it."""
    events = cache.watch("told:", timeout=PATIENCE_SECONDS)
    version = cache.set("told:a", 1)
    cache.incr("told:a")
    cache.touch("told:a", ttl=60)
    cache.set_many({b"told:b": b"", "told:c": "x"})
    cache.delete("told:a")
    cache.set("untold", 1)
    cache.add("told:c", 1)  # is there, so nothing changes
    with cache.pipeline() as pipe:
        pipe.set("told:d", 1).delete("told:d")
    cache.flush()
    by_key: dict[Any, list[Any]] = {}
    while None not in by_key:
        event = next(events)
        by_key.setdefault(event.key, []).append(event)
    assert [event.kind for event in by_key["told:a"]] == ["set", "set", "touch", "delete"]
    assert by_key["told:a"][0].version == version < by_key["told:a"][1].version
    assert [event.kind for event in by_key[b"told:b"]] == ["set"]
    assert [event.kind for event in by_key["told:c"]] == ["set"]
    assert [event.kind for event in by_key["told:d"]] == ["set", "delete"]
    assert by_key[None][0].kind == "flush"
    assert set(by_key) == {"told:a", b"told:b", "told:c", "told:d", None}


def test_expired_keys_are_told_by_the_sweeper(cache: Any) -> None:
    events = cache.watch("expiring:", timeout=PATIENCE_SECONDS)
    cache.set("expiring:1", 1, ttl=0.01)
    assert take(events, 2) == [("set", "expiring:1"), ("expire", "expiring:1")]


def test_iteration_ends_after_the_timeout(cache: Any) -> None:
    events = cache.watch("quiet:", timeout=0.05)
    cache.set("quiet:1", 1)
    assert take(events, 10) == [("set", "quiet:1")]


def test_watching_begins_with_the_call(cache: Any) -> None:
    cache.set("begin:before", 1)
    now = cache.watch("begin:", timeout=0.1)
    time.sleep(0.01)  # the keys may be told in two rings, whose order is that of milliseconds
    cache.set("begin:after", 1)
    oldest = cache.watch(b"begin:", since="oldest", timeout=0.1)
    assert take(now, 10) == [("set", "begin:after")]
    assert take(oldest, 10) == [("set", "begin:before"), ("set", "begin:after")]


def test_asyncio(server: Server) -> None:
    async def main() -> list[tuple[str, Any]]:
        async with await api.connect_async(server.name, timeout=20) as cache:
            events = cache.watch("aio:", timeout=0.5)
            await cache.set("aio:1", 1)
            await cache.delete("aio:1")
            return [(event.kind, event.key) async for event in events]

    for run in (asyncio.run, uvloop.run):
        assert run(main()) == [("set", "aio:1"), ("delete", "aio:1")]


def test_misuse(server: Server) -> None:
    with server.connect() as cache:
        for wrong in ({"prefix": 1}, {"since": "ever"}, {"timeout": 0}, {"timeout": "1"}):
            with pytest.raises(InvalidArgument):
                cache.watch(**wrong)
    with pytest.raises(ClientClosed):
        cache.watch()


def test_one_that_keeps_up_sees_all_in_order_while_four_write(make_server: StartServer) -> None:
    server = make_server("--feed-size", "4MiB")
    with server.connect() as cache:
        events = cache.watch("w", timeout=PATIENCE_SECONDS)

        def write(writer: int) -> None:
            with server.connect(timeout=PATIENCE_SECONDS) as own:
                for number in range(SETS):
                    own.set(f"w{writer}:{number}", number)
                    own.set(f"w{writer}", number)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(WRITERS)]
        for thread in threads:
            thread.start()
        seen = list(islice(events, 2 * WRITERS * SETS))
        for thread in threads:
            thread.join()
    assert {event.kind for event in seen} == {"set"}
    for writer in range(WRITERS):
        versions = [event.version for event in seen if event.key == f"w{writer}"]
        assert versions == sorted(versions)
        assert len(versions) == SETS
        keys = [event.key for event in seen if str(event.key).startswith(f"w{writer}:")]
        assert sorted(keys) == sorted(f"w{writer}:{number}" for number in range(SETS))


def test_one_that_sleeps_is_told_how_many_it_lost(make_server: StartServer) -> None:
    server = make_server("--workers", "1", *FEED)
    with server.connect() as cache:
        events = cache.watch(timeout=0.5)
        keys = [f"key {number}" for number in range(5000)]
        cache.set_many(dict.fromkeys(keys, 0))
        first = next(events)
        assert (first.kind, first.key, first.version) == ("lost", None, None)
        assert [key for _, key in take(events, 10**6)] == keys[first.lost :]
        assert 0 < first.lost < len(keys)


def test_a_killed_worker_and_a_restart_are_told(
    make_server: StartServer, eventually: Callable[..., None]
) -> None:
    server = make_server("--workers", "1", *FEED)
    with server.connect(timeout=PATIENCE_SECONDS) as cache:
        events = cache.watch(timeout=PATIENCE_SECONDS)
        cache.set("a", 1)
        killed = server.worker_pids[0]
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: killed not in server.worker_pids)
        cache.set("b", 1)
        assert take(events, 3) == [("set", "a"), ("lost", None), ("set", "b")]
        for number in (signal.SIGTERM, signal.SIGKILL):
            server.stop(number)
            server = make_server("--workers", "2", *FEED, names=server.names)
            cache.set("c", 1)
            assert take(events, 2) == [("lost", None), ("set", "c")]


def test_a_server_without_a_feed(make_server: StartServer, command: Any) -> None:
    server = make_server("--feed-size", "0")
    with server.connect() as cache:
        cache.set("a", 1)
        with pytest.raises(ServerUnavailable, match="feed_size = 0"):
            cache.watch()
    process = command(server)
    assert process.wait() == 3
    server.stop()
    done = kvserve("watch", "--name", server.name)
    assert done.returncode == 3
    assert b"no kvserve server named" in done.stderr


def test_the_command_prints_lines_until_interrupted(
    server: Server, cache: Any, command: Callable[..., Command]
) -> None:
    version = cache.set("line:é", 1)
    cache.set(b"line:\xff", 1)
    cache.delete("line:é")
    process = command(server, "line:")
    assert process.stdout is not None
    lines = sorted(process.stdout.readline().split(b" ", 1)[1] for _ in range(3))
    assert lines[0] == f"delete {version} line:é\n".encode()
    assert f"set {version} line:é\n".encode() in lines
    assert lines[1].endswith(b" line:\xff\n") or lines[2].endswith(b" line:\xff\n")
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert process.communicate()[1] == b""


def test_the_command_prints_json(
    server: Server, cache: Any, command: Callable[..., Command]
) -> None:
    version = cache.set("json:1", 1)
    process = command(server, "json:", "--json")
    assert process.stdout is not None
    row = json.loads(process.stdout.readline())
    assert row.pop("time") > 1.7e9
    assert row == {"kind": "set", "key": "json:1", "version": version}


def test_the_command_ends_when_nobody_reads(
    server: Server, cache: Any, command: Callable[..., Command]
) -> None:
    cache.set("pipe:1", 1)
    process = command(server, "pipe:")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 141  # though nothing more happens
    assert process.stderr is not None
    assert process.stderr.read() == b""


# `close` ends it.


def test_close_ends_the_iteration(server: Server) -> None:
    """Also where events wait that were read already, and of those who watch in vain."""
    cache = server.connect()
    idle, busy, begun = cache.watch("nothing"), cache.watch("closed"), cache.watch("closed")
    for n in range(10):
        cache.set(f"closed {n}", n)
    assert next(begun).key == "closed 0"
    cache.close()
    assert list(idle) == list(busy) == list(begun) == []


def test_close_in_another_thread_ends_it(server: Server) -> None:
    cache = server.connect()
    key = f"begin {secrets.token_hex(4)}"
    seen: list[Any] = []
    events = cache.watch(key)
    cache.set(key, 1)
    first = threading.Event()

    def follow() -> None:
        for event in events:
            seen.append(event)
            first.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert first.wait(PATIENCE_SECONDS)
    cache.close()
    thread.join()
    assert [event.kind for event in seen] == ["set"]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_close_ends_it_on_an_event_loop(server: Server, run: Callable[..., Any]) -> None:
    async def main() -> None:
        cache = await api.connect_async(server.name)
        key = f"begin {secrets.token_hex(4)}"
        events = cache.watch(key)
        await cache.set(key, 1)
        assert (await anext(events)).key == key

        async def follow(events: Any) -> list[Any]:
            return [event async for event in events]

        tasks = [asyncio.create_task(follow(each)) for each in (events, cache.watch("none"))]
        await asyncio.sleep(0)
        await cache.close()
        assert await asyncio.gather(*tasks) == [[], []]

    run(main())
