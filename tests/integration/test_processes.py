"""Clients that are inherited: by forks at any moment, by pools of processes, by a fork's forks."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from conftest import Eventually
from support.servers import Server, StartServer, stopped

import kvserve
from kvserve.client.session import Session
from kvserve.manifest import Manifest

PROCESSES = 3
TURNS = 50
CONNECTS_AT_IMPORT = """
import kvserve
cache = kvserve.connect({name!r}, timeout=20)
cache.incr("imported")
def count(number):
    for turn in range({turns}):
        cache.incr("counter")
        cache.set(f"mine {{number}}", [number, turn])
        assert cache.get(f"mine {{number}}") == [number, turn]
    return number
"""


def forked(work: Callable[..., object], *arguments: Any) -> int:
    """Forks a child that works and ends; returns its pid. Its exit code is 0 if all went well."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def succeed(pids: list[int]) -> None:
    """Waits for children and fails if one did."""
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * len(pids)


def use(cache: kvserve.Client, who: str) -> None:
    """What every process does with the client that it has inherited."""
    for turn in range(TURNS):
        cache.incr("counter")
        cache.set(who, [who, turn])
        assert cache.get(who) == [who, turn]


@pytest.mark.parametrize("read", ["direct", "worker"])
def test_children_and_grandchildren_of_a_client_in_use(server: Server, read: Any) -> None:
    """As celery does: a parent that used the cache, its pool, and what the pool's tasks fork."""
    with server.connect(timeout=20, read=read) as cache:

        def child(number: int) -> None:
            use(cache, f"child {number}")
            grandchildren = [forked(use, cache, f"{each} of child {number}") for each in range(2)]
            use(cache, f"child {number}")
            succeed(grandchildren)

        use(cache, "parent")
        children = [forked(child, number) for number in range(PROCESSES)]
        use(cache, "parent")
        succeed(children)
        assert cache.get("counter") == (2 + PROCESSES * 4) * TURNS


def test_child_outlives_its_parent(server: Server) -> None:
    """What the parent closes is its own; the child's sessions and table go on."""
    cache = server.connect(timeout=20)
    cache.set("key", "value")
    reading, writing = os.pipe()

    def child() -> None:
        os.close(writing)
        use(cache, "before")
        os.read(reading, 1)  # until the parent has closed the client
        assert cache.get("key") == "value"
        use(cache, "after")

    pid = forked(child)
    cache.close()
    os.close(writing)
    os.close(reading)
    succeed([pid])
    with server.connect() as other:
        assert other.get("counter") == 2 * TURNS


def test_forks_of_one_thread_amid_the_requests_of_others(
    server: Server, eventually: Eventually
) -> None:
    """Their sessions are at every stage: being made, greeted, written to, waited for."""
    stop = threading.Event()
    problems: list[BaseException] = []
    large = os.urandom(150_000)
    with server.connect(timeout=30) as cache:

        def work(number: int) -> None:
            try:
                while not stop.is_set():
                    cache.set(f"thread {number}", large[number:])
                    assert cache.get(f"thread {number}") == large[number:]
                    with server.connect(timeout=30) as another:  # begins and ends sessions
                        another.incr("counter")
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            for turn in range(30):
                succeed([forked(use, cache, f"child {turn}")])
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert problems == []
        assert cache.verify() == []
    # The last child left without a word: its files go when a worker notices.
    eventually(lambda: not any(server.names.clients_directory.iterdir()))


def test_fork_inherits_no_descriptor_of_a_session(server: Server) -> None:
    """Whatever other threads are doing: one that is kept would hide their death."""
    stop = threading.Event()

    manifest = Manifest.read(server.names)

    def open_and_close() -> None:
        while not stop.is_set():
            Session(server.names, manifest, 0, manifest.queue_message_bytes).close()

    threads = [threading.Thread(target=open_and_close) for _ in range(3)]
    for thread in threads:
        thread.start()

    def look() -> None:
        of_sessions = (str(server.names.clients_directory), server.names.worker_queue(0)[:-1])
        assert not [path for path in open_paths() if path.startswith(of_sessions)]
        with server.connect(timeout=30) as cache, ThreadPoolExecutor(1) as another_thread:
            another_thread.submit(cache.ping).result()  # nor has it inherited a lock

    try:
        with ThreadPoolExecutor(1) as forking:  # the child's main thread is not ours
            for _ in range(100):
                forking.submit(lambda: succeed([forked(look)])).result()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def open_paths() -> list[str]:
    """What this process's descriptors lead to."""
    paths = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one by which we look
            paths.append(str(entry.readlink()))
    return paths


def greets_blocking(name: str) -> None:
    """Begins a session and waits for the answer, until it is killed."""
    with kvserve.connect(name, timeout=60) as cache:
        cache.set("greeted", 1)
        time.sleep(60)


def greets_async(name: str) -> None:
    """The same on an event loop."""

    async def main() -> None:
        cache = await kvserve.connect_async(name, timeout=60)
        await cache.set("greeted", 1)
        await asyncio.sleep(60)

    asyncio.run(main())


@pytest.mark.parametrize("greet", [greets_blocking, greets_async])
def test_death_of_a_client_that_forked_while_it_greeted_is_seen(
    make_server: StartServer, eventually: Eventually, greet: Callable[[str], None]
) -> None:
    """A child that lives on has no part in its parent's half-open session."""
    server = make_server("--workers", "1")
    reading, writing = os.pipe()

    def client() -> None:
        os.close(writing)
        threading.Thread(target=greet, args=(server.name,), daemon=True).start()
        eventually(lambda: len(list(server.names.clients_directory.iterdir())) == 2)
        forked(os.read, reading, 1)  # lives until the test lets go
        os.kill(server.worker_pids[0], signal.SIGCONT)
        time.sleep(60)

    with server.connect(timeout=20) as cache:
        with stopped(server.worker_pids[0]):
            pid = forked(client)
            os.close(reading)
            try:
                eventually(lambda: cache.get("greeted") == 1)
            finally:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        try:
            eventually(lambda: cache.stats()["workers"][0]["sessions"] == 1)
        finally:
            os.close(writing)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_async_client_on_both_sides_of_a_fork(server: Server, run: Callable[..., Any]) -> None:
    """The child goes on in a loop of its own, with the parent's requests and greetings under way.

    Neither then nor at its end does it disturb the parent's loop, whose epoll it has inherited.
    """

    async def use_async(cache: kvserve.AsyncClient, who: str) -> None:
        await asyncio.gather(*(cache.incr("counter") for _ in range(TURNS)))
        for turn in range(5):
            await cache.set(who, [who, turn])
            assert await cache.get(who) == [who, turn]

    def child(cache: kvserve.AsyncClient, number: int) -> None:
        run(use_async(cache, f"child {number}"))

    async def main() -> None:
        async with await kvserve.connect_async(server.name, timeout=20, read="worker") as cache:
            children: list[int] = []
            for number in range(8):  # the first while the sessions are greeted
                tasks = [asyncio.ensure_future(use_async(cache, f"parent {n}")) for n in range(3)]
                for _ in range(number + 1):
                    await asyncio.sleep(0)
                children.append(forked(child, cache, number))
                await asyncio.gather(*tasks)
            await asyncio.to_thread(succeed, children)
            assert await cache.get("counter") == 8 * (3 + 1) * TURNS

    run(main())


@pytest.fixture
def module(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module whose import connects, as those of many services do."""
    source = CONNECTS_AT_IMPORT.format(name=server.name, turns=TURNS)
    (tmp_path / "connects_at_import.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    yield "connects_at_import"
    imported = sys.modules.pop("connects_at_import", None)
    if imported is not None:
        imported.cache.close()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pool_of_processes(server: Server, module: str, method: str) -> None:
    """Whichever way a pool starts its processes, each uses the client that its module has made."""
    count = __import__(module).count
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([module])
    try:
        with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
            assert sorted(pool.map(count, range(8))) == list(range(8))
    finally:
        if method == "forkserver":
            stop_forkserver()
    with server.connect() as cache:
        assert cache.get("counter") == 8 * TURNS
        # By us; and where nothing is inherited from us, by each process or by the forkserver.
        expected = {"fork": (1,), "forkserver": (2,), "spawn": range(2, 2 + PROCESSES)}[method]
        assert cache.get("imported") in expected


def stop_forkserver() -> None:
    """Ends the server of forks, which has imported the module and connected."""
    from multiprocessing import forkserver

    forkserver._forkserver._stop()  # type: ignore[attr-defined]
