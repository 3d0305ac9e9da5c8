"""Forks under a client that is in use, those that Python knows of and those that C code makes."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from conftest import Eventually
from support.crews import FORKS, Fork, Member, crew, together
from support.servers import Server, StartServer, stopped
from support.trusted import direct, writers

import kvserve
from kvserve.protocol.framing import frame_to_stream
from kvserve.protocol.messages import Reply
from kvserve.transport import fifo

CHILDREN = 3
ROUNDS = 60
STRIPES = 63
LINE_BYTES = 64
both = pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    """The server of all tests that leave it alone."""
    return make_module_server("--shards", "2", "--writers", str(CHILDREN + 1))


def work(cache: kvserve.Client, who: int) -> None:
    """Every kind of request; what it reads must be what it wrote."""
    for turn in range(ROUNDS):
        cache.set(f"own {who}", f"{who} {turn}")
        assert cache.get(f"own {who}") == f"{who} {turn}"
        assert cache.incr("all") is not None
        keys = [f"{who} {key}" for key in range(4)]
        cache.set_many(dict.fromkeys(keys, turn))
        assert cache.get_many(keys) == dict.fromkeys(keys, turn)
        with cache.pipeline() as p:
            p.incr("all").set(f"own {who}", turn).get(f"own {who}")
        assert p.results[2] == turn


def sets(events: Iterator[kvserve.Event]) -> Iterator[kvserve.Event]:
    """Without `lost`: writers among the members end without a word."""
    return (event for event in events if event.kind == "set")


def counted_of_all(cache: kvserve.Client, fork: Fork) -> int:
    """What parent and children counted together, after one request before the forks."""
    cache.set("all", 0)
    with crew(CHILDREN, lambda _, number: work(cache, number), fork) as members:
        work(cache, CHILDREN)
        for member in members:
            member.hear()
    total = cache.get("all")
    assert isinstance(total, int)
    return total


@both
@pytest.mark.parametrize("large", [False, True], ids=["queue", "fifo"])
def test_children_of_a_client_in_use(served: Server, fork: Fork, large: bool) -> None:
    """Each has a session of its own: nothing is lost, done twice, or answered to another."""
    queue_bytes = 0 if large else None
    with served.connect(timeout=30, read="worker", queue_bytes=queue_bytes) as cache:
        assert counted_of_all(cache, fork) == 2 * ROUNDS * (CHILDREN + 1)


@both
def test_children_of_a_trusted_writer(served: Server, fork: Fork, eventually: Eventually) -> None:
    """Each has a place of its own, and a ring of its own in the feed."""
    with direct(served, timeout=30) as cache, served.connect() as watching:
        events = watching.watch("place")
        assert counted_of_all(cache, fork) == 2 * ROUNDS * (CHILDREN + 1)

        def take_place(pipe: Connection, number: int) -> int:
            cache.set(f"place {number}", number)
            pipe.send("there")
            pipe.recv()
            return os.getpid()

        cache.set("place", 0)
        with crew(CHILDREN, take_place, fork) as members:
            for member in members:
                member.hear()
            assert writers(served) == CHILDREN + 1
            for member in members:
                member.tell()
                member.hear()
        assert cache.verify() == []
        told = islice((event.key for event in sets(events)), CHILDREN + 1)
        assert sorted(told) == ["place", *(f"place {number}" for number in range(CHILDREN))]
    eventually(lambda: writers(served) == 0)


@both
def test_children_of_an_asyncio_client(served: Server, fork: Fork) -> None:
    async def count(cache: kvserve.AsyncClient, who: int) -> None:
        for turn in range(ROUNDS):
            await cache.set(f"own {who}", turn)
            assert await cache.get(f"own {who}") == turn
            await cache.incr("all")
            assert await cache.get_many([f"own {who}", "none"]) == {f"own {who}": turn}
            await asyncio.gather(*(cache.incr("all") for _ in range(3)))

    loop = asyncio.new_event_loop()
    cache = loop.run_until_complete(kvserve.connect_async(served.name, timeout=30, read="worker"))
    loop.run_until_complete(cache.set("all", 0))

    def child(number: int) -> None:
        own = asyncio.new_event_loop()
        own.run_until_complete(count(cache, number))
        own.run_until_complete(cache.close())

    with crew(CHILDREN, lambda _, number: child(number), fork) as members:
        loop.run_until_complete(count(cache, CHILDREN))
        for member in members:
            member.hear()
    assert loop.run_until_complete(cache.get("all")) == 4 * ROUNDS * (CHILDREN + 1)
    loop.run_until_complete(cache.close())
    loop.close()


@pytest.mark.parametrize("first", FORKS.values(), ids=FORKS)
@pytest.mark.parametrize("second", FORKS.values(), ids=FORKS)
def test_child_of_a_child(served: Server, first: Fork, second: Fork) -> None:
    """Whether the one between has used the client or not."""
    for between_asks in (False, True):
        with served.connect(timeout=30, read="worker") as cache:
            cache.set("all", 0)

            def child(_: Connection, asks: bool = between_asks) -> int:
                if asks:
                    cache.incr("all")
                (grandchild,) = together(1, lambda _: cache.incr("all"), second)
                assert cache.incr("all") == grandchild + 1
                return grandchild

            member = Member(child, first)
            grandchild = member.hear()
            member.end()
            assert cache.incr("all") == grandchild + 2 == 3 + between_asks


@pytest.fixture
def no_forced_switches() -> Iterator[None]:
    """Threads give the interpreter up where they wait, and only there.

    CPython itself does not survive a fork of C while another thread asks for its lock: the child
    waits for that thread to take it, which it has not got.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("no_forced_switches")
@both
def test_fork_under_another_threads_request(own: tuple[Server, kvserve.Client], fork: Fork) -> None:
    """While it waits for its reply, and while a session is opened, whose worker takes no hello."""
    server, _ = own
    with server.connect(timeout=30, read="worker") as cache:
        cache.set_many({f"key {n}": n for n in range(20)})  # has a session with each worker
        members = []
        numbers: list[Any] = []
        pids = server.worker_pids
        with stopped(pids[0]), stopped(pids[1]):
            threads = [
                threading.Thread(target=lambda: numbers.append(cache.incr("all")))
                for _ in range(2)  # the second needs a session more
            ]
            for thread in threads:
                thread.start()
                members.append(Member(lambda _: cache.incr("all"), fork))
        for thread in threads:
            thread.join()
        numbers += [member.hear() for member in members]
        for member in members:
            member.end()
        assert sorted(numbers) == [1, 2, 3, 4]


@both
def test_a_child_counts_its_reads_apart(served: Server, fork: Fork) -> None:
    hints = Path(f"/dev/shm{served.names.hints}")

    def hits(pid: int) -> int:
        first = LINE_BYTES * (1 + pid % STRIPES)
        return int.from_bytes(hints.read_bytes()[first : first + 8], "little")

    with served.connect() as cache:
        cache.set("read", 1)

        def read(_: Connection) -> tuple[int, int]:
            before = hits(os.getpid())
            for _ in range(10):
                cache.get("read")
            cache.get_many(["read"] * 10)
            return before, hits(os.getpid())

        cache.get("read")
        member = Member(read, fork)
        before, after = member.hear()
        member.end()
    assert after == before + 20


@both
def test_both_go_on_watching(served: Server, fork: Fork) -> None:
    with served.connect() as cache:
        key = f"watched {secrets.token_hex(4)}"
        events = sets(cache.watch(key))
        cache.set(key, 1)
        first = next(events)

        def child(_: Connection) -> list[Any]:
            cache.set(key, 2)
            return [next(events).version, next(sets(cache.watch(key, since="oldest"))).version]

        member = Member(child, fork)
        second, oldest = member.hear()
        member.end()
        assert oldest == first.version
        assert next(events).version == second > first.version


@both
def test_a_child_has_not_got_its_parents_lock(served: Server, fork: Fork) -> None:
    """It neither renews nor releases it."""
    with served.connect(timeout=30) as cache:
        lock = cache.lock("held", ttl=20)
        with lock:
            threads = threading.active_count()

            def child(_: Connection) -> tuple[bool, int]:
                assert not lock.held
                with pytest.raises(kvserve.LockLost):
                    lock.release()
                with pytest.raises(kvserve.LockTimeout):
                    cache.lock("held").acquire(timeout=0)
                return lock.held, len(list(Path("/proc/self/task").iterdir()))

            member = Member(child, fork)
            assert member.hear() == (False, 1)
            member.end()
            assert lock.held
            assert threads == threading.active_count()
        with cache.lock("held") as again:
            assert again.held


@both
def test_a_child_does_not_keep_its_parents_session(
    own: tuple[Server, kvserve.Client], fork: Fork, eventually: Eventually
) -> None:
    """Once it has used the client: what it inherited would hide the parent's end."""
    server, asking = own

    def sessions() -> int:
        return sum(each["sessions"] for each in asking.stats()["workers"])

    before = sessions()
    cache = server.connect(read="worker")
    cache.set("key", 1)

    def child(pipe: Connection) -> None:
        assert cache.get("key") == 1
        cache.close()
        pipe.send("closed")
        pipe.recv()

    member = Member(child, fork)
    member.hear()
    assert cache.get("key") == 1  # the child has not closed it for us
    cache.close()
    eventually(lambda: sessions() == before)
    member.tell()
    member.hear()
    member.end()


def test_a_reply_to_another_client_is_left_alone(served: Server) -> None:
    """Although its request has the same number."""
    with served.connect(read="worker") as cache:
        cache.set("key", "mine")
        ((channel,),) = [idle for idle in cache._workers._idle.values() if idle]
        session = channel.session
        foreign = Reply(session._last_request_id + 1, 0, (1, b"foreign", 1))
        path = served.names.reply_fifo(session.client_id)
        owner = {"owner_uid": os.geteuid(), "group_id": None}
        with fifo.open_end(path, os.O_WRONLY, **owner) as file:
            os.write(file.number, frame_to_stream(foreign.encode(session.client_id ^ 1)))
            assert cache.get("key") == "mine"
            os.write(file.number, frame_to_stream(foreign.encode(session.client_id ^ 1)))
            assert cache.get("key") == "mine"


UWSGI = """
import ctypes, os, sys
import kvserve
cache = kvserve.connect(sys.argv[1], timeout=30, read="worker")
cache.incr("number")
pids = []
for _ in range(3):
    pid = ctypes.PyDLL(None).fork()
    if not pid:
        ctypes.pythonapi.PyOS_AfterFork_Child()  # as --py-call-osafterfork does; no hook before it
        cache.incr("number")
        cache.close()
        os._exit(0)
    pids.append(pid)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
print(cache.incr("number"))
"""


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="CPython itself aborts such a child")
def test_hooks_after_a_fork_without_those_before_it(served: Server) -> None:
    with served.connect() as cache:
        cache.delete("number")
    command = [sys.executable, "-c", UWSGI, served.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")
