"""A store that stands still, or fails, costs a worker a bounded memory, which it gives back.

Meanwhile what there is no room for is refused at once, what is acknowledged is in the store, and
what is refused is not.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from conftest import Eventually
from support.servers import Server, StartServer
from support.stores import edit
from support.valkeys import Valkey

import kvserve
from kvserve import limits
from kvserve.errors import (
    KvserveError,
    OutcomeUnknown,
    RequestTimeout,
    ServerBusy,
    StoreUnavailable,
)

CLIENTS = 4
TASKS = 40  # of each
READERS = 16
BUFFER_BYTES = 16 * limits.MIB  # a quarter of the memory
VALUE = b"v" * (limits.MIB - 16)
# Beside what is counted: what arrives just now, and what Python and the allocator make of it.
BESIDE_BYTES = 80 * limits.MIB
FREE_AGAIN_BYTES = 56 * limits.MIB  # the caches of SQLite, the buffers of connections to Valkey
FLAGS = ("--workers", "1", "--memory", "64MiB", "--max-value", "1MiB", "--store-timeout", "1")


def rss_bytes(pid: int, field: str = "RssAnon") -> int:
    """A process's own memory, without the table."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    assert found
    return int(found[1]) * limits.KIB


class Peak:
    """The most memory that a worker has had since this began, without the table."""

    def __init__(self, server: Server) -> None:
        (self.pid,) = server.worker_pids
        self.at_first = rss_bytes(self.pid)
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def grown_bytes(self) -> int:
        shared = rss_bytes(self.pid, "RssShmem") + rss_bytes(self.pid, "RssFile")
        return rss_bytes(self.pid, "VmHWM") - shared - self.at_first

    @property
    def held_bytes(self) -> int:
        return rss_bytes(self.pid) - self.at_first


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The file as while another program writes to it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


class Crowd:
    """Clients, each in a thread, with many tasks that store large values until the block ends."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = False
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CLIENTS)]
        self.outcomes: Counter[str] = Counter()
        self.acknowledged: dict[str, int] = {}  # by key, the last one
        self.begun: dict[str, int] = {}
        self.unsure: set[str] = set()

    def _run(self, number: int) -> None:
        asyncio.run(self._work(number))

    async def _work(self, number: int) -> None:
        async with await kvserve.connect_async(self._server.name, timeout=5) as cache:
            await asyncio.gather(*(self._store(cache, f"{number}.{n}") for n in range(TASKS)))

    async def _store(self, cache: kvserve.AsyncClient, key: str) -> None:
        step = 0
        while not self._stop:
            step += 1
            self.begun[key] = step
            try:
                await cache.set(key, b"%d:" % step + VALUE)
                self.acknowledged[key] = step
                self.unsure.discard(key)
                self.outcomes["done"] += 1
            except KvserveError as error:
                self.outcomes[type(error).__name__] += 1
                if isinstance(error, (RequestTimeout, OutcomeUnknown)):
                    self.unsure.add(key)
                await asyncio.sleep(0.01)

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join()

    def check(self, stored: dict[str, int]) -> None:
        """What was acknowledged is stored, and what was refused is not."""
        for key, step in self.acknowledged.items():
            if key not in self.unsure:
                assert stored[key] == step, key
            else:
                assert step <= stored[key] <= self.begun[key], key
        assert set(stored) - set(self.acknowledged) <= self.unsure


def check_end(server: Server, peak: Peak, eventually: Eventually) -> None:
    """All is given back by the same worker."""
    assert peak.grown_bytes < BUFFER_BYTES + BESIDE_BYTES
    try:
        eventually(lambda: peak.held_bytes < FREE_AGAIN_BYTES)
    except AssertionError:
        with server.connect() as cache:
            raise AssertionError(
                f"{peak.held_bytes} bytes are held still, {cache.stats()['workers'][0]}"
            ) from None
    with server.connect() as cache:
        assert cache.verify() == []
        assert cache.stats()["workers"][0]["pid"] == peak.pid


@pytest.mark.parametrize("behind", [(), ("--write-behind", "0.1")], ids=["through", "behind"])
def test_a_locked_file(
    make_server: StartServer, tmp_path: Path, eventually: Eventually, behind: tuple[str, ...]
) -> None:
    path = tmp_path / "cache.db"
    server = make_server(*FLAGS, "--store", f"sqlite:///{path}", *behind)
    peak = Peak(server)
    with Crowd(server) as crowd:
        with locked(path):
            eventually(lambda: sum(crowd.outcomes.values()) > 300)
            assert crowd.outcomes[ServerBusy.__name__] + crowd.outcomes["StoreUnavailable"] > 0
        eventually(lambda: not crowd.outcomes["done"] < 30)
    if behind:
        with server.connect() as cache:
            eventually(lambda: cache.stats()["workers"][0]["store"]["writes_behind"] == 0)
    rows = edit(path, "SELECT key, substr(value, 1, 20) FROM items")
    crowd.check({key: int(value.partition(b":")[0]) for key, value in rows})
    check_end(server, peak, eventually)


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with tempfile.TemporaryDirectory(prefix="kv") as directory:
        started = Valkey(Path(directory))
        yield started
        with suppress(ProcessLookupError):
            started.signal(signal.SIGCONT)
        started.kill()


def test_a_stopped_valkey(make_server: StartServer, valkey: Valkey, eventually: Eventually) -> None:
    server = make_server(*FLAGS, "--store", f"{valkey.url}?prefix=x:")
    peak = Peak(server)
    with Crowd(server) as crowd:
        eventually(lambda: crowd.outcomes["done"] > 0)
        valkey.signal(signal.SIGSTOP)
        begun = sum(crowd.outcomes.values())
        eventually(lambda: sum(crowd.outcomes.values()) > begun + 300)
        valkey.signal(signal.SIGCONT)
        done = crowd.outcomes["done"]
        eventually(lambda: crowd.outcomes["done"] > done + 30)
    check_end(server, peak, eventually)


@pytest.mark.parametrize("together", [True, False], ids=["get_many", "get"])
def test_large_values_that_many_read_at_once(
    make_server: StartServer, tmp_path: Path, eventually: Eventually, together: bool
) -> None:
    path = tmp_path / "cache.db"
    server = make_server(*FLAGS, "--store", f"sqlite:///{path}")
    keys = [f"key {n}" for n in range(60)]
    statement = "INSERT INTO items (key, is_text, codec, value) VALUES (?, 1, 0, zeroblob(1000000))"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(statement, [(key,) for key in keys])
    peak = Peak(server)

    def read(number: int) -> None:
        with server.connect(timeout=30) as cache:
            wanted = keys[number:] + keys[:number]
            while wanted:
                try:
                    if together:
                        assert len(cache.get_many(wanted)) == len(wanted)
                        return
                    assert len(cache.get(wanted[-1])) == 1_000_000
                    wanted.pop()
                except (ServerBusy, RequestTimeout):  # the latter if a part was read
                    time.sleep(0.005)

    readers = 3 if together else READERS
    threads = [threading.Thread(target=read, args=(3 * n,)) for n in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_end(server, peak, eventually)


@pytest.mark.parametrize("found", ["in the store", "in the table"])
def test_a_herd_is_served_whole(
    make_server: StartServer, tmp_path: Path, eventually: Eventually, found: str
) -> None:
    """One load for all who miss a large value at once; its copies are made one after the other,
    also for those who come when it is in the table already."""
    path = tmp_path / "cache.db"
    server = make_server(*FLAGS, "--store", f"sqlite:///{path}")
    peak = Peak(server)
    lengths: list[int] = []
    errors: list[KvserveError] = []
    with server.connect() as cache:
        cache.set("hot", VALUE)
        if found == "in the store":
            cache.flush()
    barrier = threading.Barrier(100)

    def read() -> None:
        with server.connect(timeout=30, read="worker") as cache:
            cache.ping()
            barrier.wait()
            try:
                lengths.append(len(cache.get("hot")))
            except KvserveError as error:
                errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert lengths == [len(VALUE)] * 100
    check_end(server, peak, eventually)


def test_one_client_does_not_starve_the_others(
    make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    """What it may take is refused to itself alone."""
    path = tmp_path / "cache.db"
    server = make_server(*FLAGS, "--store", f"sqlite:///{path}")

    async def flood() -> tuple[list[object], object]:
        async with await kvserve.connect_async(server.name, timeout=20) as greedy:
            sets = [greedy.set(f"greedy {n}", VALUE) for n in range(64)]
            answers = asyncio.gather(*sets, return_exceptions=True)
            with server.connect() as other:
                await asyncio.to_thread(eventually, lambda: refused(server) > 0)
                mine = asyncio.to_thread(other.set, "mine", VALUE)
                (answer,) = await asyncio.gather(mine, return_exceptions=True)
            return await answers, answer

    with locked(path):
        answers, answer = asyncio.run(flood())
    assert any(isinstance(each, ServerBusy) for each in answers)
    assert isinstance(answer, StoreUnavailable)  # it waited for the file, and had room for that


def refused(server: Server) -> int:
    """How many requests its worker had no room for."""
    with server.connect() as cache:
        count: int = cache.stats()["workers"][0]["refused_requests"]
    return count
