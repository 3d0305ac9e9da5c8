"""Kills under load: every kind of client at work, while workers, clients and the parent are killed.

What is true afterwards is written down outside kvserve as it happens: each writer appends what it
begins and what was acknowledged to files of its own, which survive its SIGKILL. The table is large
enough that nothing is evicted, so each key must hold a number between the last acknowledged and the
last begun, and each counter lies between its acknowledged and its begun increments.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fault import payloads
from servers import Server

import kvserve

FORK = multiprocessing.get_context("fork")
KEYS = 30  # of each writer
ENTRY = struct.Struct("<IQ")  # the key's number, the value's number
PATIENCE_SECONDS = 30.0
WRITERS: dict[str, dict[str, Any]] = {
    "direct": {},
    "worker": {"read": "worker"},
    "fifo": {"queue_bytes": 0},
    "async": {},
}


class Journal:
    """What a writer began, or what was acknowledged; appended to, whole entries only."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, key: int, number: int) -> None:
        os.write(self._descriptor, ENTRY.pack(key, number))


def read_journal(path: Path) -> Iterator[tuple[int, int]]:
    """The entries of a journal, in order."""
    if path.exists():
        yield from ENTRY.iter_unpack(path.read_bytes())


@dataclass
class Report:
    """What a soak saw."""

    seed: int
    seconds: float = 0.0
    kills: dict[str, int] = field(default_factory=dict)
    stops: int = 0
    writes: int = 0
    increments: int = 0
    unknown: int = 0
    reads: int = 0
    verified: int = 0


def size_of(number: int) -> int:
    """Sizes that go through the queue, and through the FIFO."""
    return (20, 100, 1000, 5000, 30_000)[number % 5]


def start_number(directory: Path, name: str) -> int:
    """Where a writer goes on that was killed."""
    return 1 + max((number for _, number in read_journal(directory / f"{name}.begun")), default=0)


def write_blocking(name: str, way: str, directory: Path) -> None:
    """Sets its own keys and increments a common counter, for ever."""
    begun, done = Journal(directory / f"{way}.begun"), Journal(directory / f"{way}.done")
    counted, sure = Journal(directory / f"{way}.counting"), Journal(directory / f"{way}.counted")
    number = start_number(directory, way)
    with connected(name, **WRITERS[way]) as cache:
        while True:
            number += 1
            key = number % KEYS
            begun.add(key, number)
            with suppress(kvserve.ServerError):
                cache.set(f"{way} {key}", payloads.make(number, size_of(number)))
                done.add(key, number)
            counted.add(0, number)
            with suppress(kvserve.ServerError):
                cache.incr("counter")
                sure.add(0, number)


def write_async(name: str, way: str, directory: Path) -> None:
    """The same with five tasks, which have their keys among them."""
    begun, done = Journal(directory / f"{way}.begun"), Journal(directory / f"{way}.done")
    first = start_number(directory, way)

    async def work(cache: kvserve.AsyncClient, task: int) -> None:
        number = first
        while True:
            number += 1
            key = number % (KEYS // 5) * 5 + task
            begun.add(key, number)
            with suppress(kvserve.ServerError):
                await cache.set(f"{way} {key}", payloads.make(number, size_of(number)))
                done.add(key, number)

    async def main() -> None:
        with connected(name):  # only to wait until there is a server
            cache = await kvserve.connect_async(name, timeout=5)
        async with cache:
            await asyncio.gather(*(work(cache, task) for task in range(5)))

    asyncio.run(main())


@contextmanager
def connected(name: str, **options: Any) -> Iterator[kvserve.Client]:
    """A client, as soon as there is a server."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            cache = kvserve.connect(name, timeout=5, **options)
            break
        except kvserve.ServerError:
            assert time.monotonic() < give_up
            time.sleep(0.01)
    with cache:
        yield cache


def read(name: str, way: str, directory: Path) -> None:
    """Reads everybody's keys, for ever: whole values, versions that never go back."""
    journal = Journal(directory / f"{way}.reads")
    chance = random.Random(way)
    versions: dict[str, int] = {}
    reads = 0
    with connected(name, read=way.partition(" ")[2]) as cache:
        while True:
            key = f"{chance.choice(tuple(WRITERS))} {chance.randrange(KEYS)}"
            try:
                value, version = cache.gets(key)
            except kvserve.ServerError:
                continue
            reads += 1
            if reads % 1000 == 0:
                journal.add(0, 1000)
            if version is None:
                assert key not in versions, f"{key} is missing, and was there"
                continue
            payloads.number_of(value)
            assert version >= versions.get(key, 0), f"{key} went back"
            versions[key] = version


class Soak:
    """A server, its clients, and the one who kills them.

    Args:
        start_server: starts the server, or starts it anew.
        directory: for the journals.
        seed: of all chance.
    """

    def __init__(self, start_server: Callable[[], Server], directory: Path, seed: int) -> None:
        self._start_server = start_server
        self._directory = directory
        self._chance = random.Random(seed)
        self.report = Report(seed)
        self._server = start_server()
        works = {way: write_async if way == "async" else write_blocking for way in WRITERS}
        works |= {"reader direct": read, "reader worker": read}
        self._works = works
        self._clients: dict[str, BaseProcess] = {way: self._spawn(way) for way in works}

    def _spawn(self, way: str) -> BaseProcess:
        process = FORK.Process(
            target=self._works[way], args=(self._server.name, way, self._directory)
        )
        process.start()
        return process

    def run(self, kills: int) -> Report:
        """Goes on until so many processes were killed; then checks everything."""
        began = time.monotonic()
        while sum(self.report.kills.values()) < kills:
            time.sleep(self._chance.uniform(0.02, 0.4))
            self._strike()
            for way, client in self._clients.items():
                assert client.exitcode is None, f"{way} failed with {client.exitcode}"
        for client in self._clients.values():
            client.kill()
            client.join()
        self.report.seconds = time.monotonic() - began
        self._check()
        return self.report

    def _strike(self) -> None:
        choice = self._chance.randrange(100)
        workers = self._server.worker_pids
        if choice < 45:
            self._kill("worker", self._chance.sample(workers, min(1, len(workers))))
        elif choice < 65:
            self._kill("worker", workers)  # several at once
        elif choice < 85:
            way = self._chance.choice(tuple(self._clients))
            self._clients[way].kill()
            self._clients[way].join()
            self._count("client")
            self._clients[way] = self._spawn(way)
        elif choice < 95 and workers:
            self._stop_for_a_while(self._chance.choice(workers))
        elif choice >= 95:
            self._server.process.kill()
            self._server.process.wait()
            self._count("parent")
            self._server = self._start_server()

    def _kill(self, what: str, pids: list[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self._count(what)

    def _count(self, what: str) -> None:
        self.report.kills[what] = self.report.kills.get(what, 0) + 1

    def _stop_for_a_while(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self._chance.uniform(0.01, 0.5))
            os.kill(pid, signal.SIGCONT)
            self.report.stops += 1

    def _check(self) -> None:
        report = self.report
        with connected(self._server.name) as cache:
            assert cache.verify() == []
            report.verified = len(list(cache.scan()))
            assert cache.stats()["evictions"] == 0, "the table was too small to judge by"
            for way in WRITERS:
                self._check_writer(cache, way)
            begun = sum(1 for way in WRITERS for _ in self._journal(way, "counting"))
            sure = sum(1 for way in WRITERS for _ in self._journal(way, "counted"))
            assert sure <= cache.get("counter") <= begun
            report.increments, report.unknown = sure, begun - sure
        for way in ("reader direct", "reader worker"):
            report.reads += sum(number for _, number in self._journal(way, "reads"))

    def _check_writer(self, cache: kvserve.Client, way: str) -> None:
        begun, done = dict(self._journal(way, "begun")), dict(self._journal(way, "done"))
        self.report.writes += sum(1 for _ in self._journal(way, "done"))
        for key, last in begun.items():
            value = cache.get(f"{way} {key}")
            if key in done:
                assert value is not None, f"{way} {key} was acknowledged and is lost"
            if value is not None:
                assert done.get(key, 0) <= payloads.number_of(value) <= last

    def _journal(self, way: str, name: str) -> Iterator[tuple[int, int]]:
        return read_journal(self._directory / f"{way}.{name}")
