"""Clients made before their server: `lazy` and `wait`, for both kinds and trusted writers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import NewNames
from support import ways
from support.servers import StartServer

import kvserve
from kvserve.names import Names

WAYS = ("lazy", "lazy-writer", "async-lazy")


@pytest.fixture
def names(new_names: NewNames) -> Names:
    """An instance that nobody serves yet."""
    return new_names()


def every_method(cache: Any) -> list[Callable[[], Any]]:
    """A call of each method that needs a server."""
    return [
        lambda: cache.get("key"),
        lambda: cache.gets("key"),
        lambda: cache.ttl("key"),
        lambda: cache.contains("key"),
        lambda: cache.get_many(["key"]),
        lambda: list(cache.scan()),
        lambda: cache.set("key", 1),
        lambda: cache.add("key", 1),
        lambda: cache.replace("key", 1),
        lambda: cache.cas("key", 1, 1),
        lambda: cache.touch("key"),
        lambda: cache.delete("key"),
        lambda: cache.incr("key"),
        lambda: cache.set_many({"key": 1}),
        lambda: cache.delete_many(["key"]),
        lambda: run_batch(cache),
        lambda: cache.flush(),
        lambda: cache.ping(),
        lambda: cache.stats(),
        lambda: cache.verify(),
        lambda: cache.namespace("n").get("key"),
        lambda: cache.get_or_set("key", lambda: 1),
    ]


def run_batch(cache: Any) -> None:
    """A pipeline of two."""
    with cache.pipeline() as batch:
        batch.set("key", 1).get("key")


@pytest.mark.parametrize("way", WAYS)
def test_each_call_tries_anew(names: Names, make_server: StartServer, way: str) -> None:
    cache = ways.connect(way, names.name)
    for call in every_method(cache):
        with pytest.raises(kvserve.ServerUnavailable, match="kvserve serve --name"):
            call()
    with pytest.raises(kvserve.InvalidKey):
        cache.get("")
    if way != "lazy-writer":  # which needs the table first
        with pytest.raises(kvserve.InvalidValue):
            cache.set("key", object())
    make_server("--writers", "4", names=names)
    for call in every_method(cache):
        call()
    assert cache.get("key") == 1
    cache.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", range(22))
def test_any_method_may_be_the_first(shared_writers: Any, way: str, first: int) -> None:
    cache = ways.connect(way, shared_writers.name)
    every_method(cache)[first]()
    cache.close()


@pytest.fixture(scope="module")
def shared_writers(make_module_server: StartServer) -> Any:
    """A server with room for writers, for the tests of this module."""
    return make_module_server("--writers", "8", "--workers", "2")


@pytest.mark.parametrize("way", WAYS)
def test_closed_before_its_first_use(names: Names, way: str) -> None:
    cache = ways.connect(way, names.name)
    if way == "async-lazy":
        cache.close_client()
    else:
        cache.close()
    with pytest.raises(kvserve.ClientClosed):
        cache.get("key")
    with pytest.raises(kvserve.ClientClosed):
        cache.set("key", 1)
    if way == "async-lazy":
        cache.close()


def test_made_at_import_and_used_in_forked_processes(
    names: Names, make_server: StartServer
) -> None:
    cache = kvserve.connect(names.name, lazy=True, timeout=20)
    direct = kvserve.connect(names.name, lazy=True, timeout=20, write="direct")
    make_server("--writers", "8", names=names)
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                for _ in range(100):
                    cache.incr("counter")
                    direct.incr("counter")
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    assert cache.get("counter") == 800
    cache.close()
    direct.close()


def test_threads_that_use_it_first_at_once(shared_writers: Any) -> None:
    for _ in range(20):
        cache = kvserve.connect(shared_writers.name, lazy=True, timeout=20)
        together = threading.Barrier(4)
        faults: list[BaseException] = []

        def work(cache: Any = cache, together: Any = together, faults: Any = faults) -> None:
            try:
                together.wait()
                cache.set("key", 1)
                assert cache.get("key") == 1
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        cache.close()


@pytest.mark.parametrize("options", [{}, {"lazy": True}, {"lazy": True, "write": "direct"}])
def test_it_waits_for_its_server(
    names: Names, make_server: StartServer, options: dict[str, Any]
) -> None:
    """At connect, or at the first use; once the server was there it is not waited for again."""
    found: list[Any] = []

    def use() -> None:
        cache = kvserve.connect(names.name, wait=3600, timeout=20, **options)
        found.append(cache.set("key", 1))
        found.append(cache)

    thread = threading.Thread(target=use)
    thread.start()
    time.sleep(0.1)
    assert found == []
    server = make_server("--writers", "4", names=names)
    thread.join()
    assert found[0] > 0
    server.stop()
    with pytest.raises(kvserve.ServerUnavailable):
        found[1].incr("key")
    found[1].close()


def test_waiting_has_one_end_for_all_uses(names: Names) -> None:
    began = time.monotonic()
    with pytest.raises(kvserve.ServerUnavailable):
        kvserve.connect(names.name, wait=0.3)
    assert time.monotonic() - began >= 0.3
    cache = kvserve.connect(names.name, wait=0.3, lazy=True)
    began = time.monotonic()
    with pytest.raises(kvserve.ServerUnavailable):
        cache.get("key")
    assert time.monotonic() - began >= 0.3
    for _ in range(1000):  # not 0.3 seconds each
        with pytest.raises(kvserve.ServerUnavailable):
            cache.get("key")
    cache.close()


@pytest.mark.parametrize("is_lazy", [True, False])
def test_the_event_loop_goes_on(names: Names, make_server: StartServer, is_lazy: bool) -> None:
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        starting = asyncio.create_task(asyncio.to_thread(make_server, names=names))
        cache = await kvserve.connect_async(names.name, wait=60, lazy=is_lazy, timeout=20)
        assert await cache.set("key", 1) > 0
        ticking.cancel()
        await starting
        await cache.close()

    asyncio.run(main())
    assert turns > 10


def test_nothing_is_looked_at_before_the_first_use(names: Names) -> None:
    """Not even modules are imported that a program may never need."""
    program = (
        "import kvserve, sys; kvserve.connect(sys.argv[1], lazy=True); "
        "print('asyncio' in sys.modules, 'subprocess' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, names.name], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"
    assert not names.runtime_directory.exists()


def test_arguments_that_make_no_sense(names: Names) -> None:
    for options in ({"wait": -1}, {"wait": True}, {"wait": float("inf")}, {"wait": "5"}):
        with pytest.raises(kvserve.InvalidArgument, match="wait = "):
            kvserve.connect(names.name, lazy=True, **options)


def test_a_trusted_writers_first_read_of_a_new_table(make_server: StartServer) -> None:
    """`get_many` of one whose table was given up: it asks nobody, but attaches the successor."""
    server = make_server("--writers", "4")
    with server.connect(write="direct") as cache:
        cache.set("key", 1)
        server.stop()
        make_server("--writers", "4", "--fresh", names=server.names)
        with server.connect() as other:
            other.set_many({"key": 2, "text": "new"})
        assert cache.get_many(["key", "text", "nobody"]) == {"key": 2, "text": "new"}


def test_errors_as_misses_are_not_for_trusted_writers(names: Names) -> None:
    with pytest.raises(kvserve.InvalidArgument, match="goes with write"):
        kvserve.connect(names.name, lazy=True, on_error="miss", write="direct")
    with pytest.raises(kvserve.InvalidArgument, match="'raise' or 'miss'"):
        kvserve.connect(names.name, lazy=True, on_error="ignore")  # type: ignore[arg-type]
