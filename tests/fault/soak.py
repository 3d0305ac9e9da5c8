"""Kills under load: every kind of client at work, while workers, clients and the parent are killed,
and while some clients are interrupted by signals, cancelled, or fork; see soak_holders.py.

What is true afterwards is written down outside kvserve as it happens: each writer appends what it
begins and what was acknowledged to files of its own, which survive its SIGKILL. The table is large
enough that nothing is evicted, so each key must hold a number between the last acknowledged and the
last begun, and each counter lies between its acknowledged and its begun increments. In the end no
lock and no lease is left, and none was held by two at once.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fault import payloads
from fault.journals import (
    KEYS,
    PATIENCE_SECONDS,
    Journal,
    connected,
    connected_async,
    read_journal,
    start_number,
)
from fault.soak_holders import HOLDERS
from support.servers import Server

import kvserve

FORK = multiprocessing.get_context("fork")
WRITERS: dict[str, dict[str, Any]] = {
    "direct": {},
    "worker": {"read": "worker"},
    "fifo": {"queue_bytes": 0},
    "async": {},
}


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
    struck: dict[str, int] = field(default_factory=dict)
    locks: int = 0


def size_of(number: int) -> int:
    """Sizes that go through the queue, and through the FIFO."""
    return (20, 100, 1000, 5000, 30_000)[number % 5]


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
        async with await connected_async(name) as cache:
            await asyncio.gather(*(work(cache, task) for task in range(5)))

    asyncio.run(main())


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


def work_in_group(work: Callable[..., None], name: str, way: str, directory: Path) -> None:
    """Does a client's work, in a process group of its own."""
    os.setpgid(0, 0)
    work(name, way, directory)


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
        works |= {"reader direct": read, "reader worker": read, **HOLDERS}
        self._works = works
        self._clients: dict[str, BaseProcess] = {way: self._spawn(way) for way in works}

    def _spawn(self, way: str) -> BaseProcess:
        process = FORK.Process(
            target=work_in_group,
            args=(self._works[way], self._server.name, way, self._directory),
        )
        process.start()
        return process

    def _end(self, way: str) -> None:
        """Kills a client, and what it has forked."""
        client = self._clients[way]
        assert client.pid is not None
        with suppress(ProcessLookupError):
            os.killpg(client.pid, signal.SIGKILL)
        client.kill()  # if it has no group of its own yet
        client.join()

    def run(self, kills: int) -> Report:
        """Goes on until so many processes were killed; then checks everything."""
        began = time.monotonic()
        try:
            while sum(self.report.kills.values()) < kills:
                time.sleep(self._chance.uniform(0.02, 0.4))
                self._strike()
                for way, client in self._clients.items():
                    assert client.exitcode is None, f"{way} failed with {client.exitcode}"
        finally:
            for way in self._clients:
                self._end(way)
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
            self._end(way)
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
            for way in (*WRITERS, *HOLDERS):
                self._check_writer(cache, way)
            begun = sum(1 for way in WRITERS for _ in self._journal(way, "counting"))
            sure = sum(1 for way in WRITERS for _ in self._journal(way, "counted"))
            assert sure <= cache.get("counter") <= begun
            report.increments, report.unknown = sure, begun - sure
            self._check_holders(cache)
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

    def _check_holders(self, cache: kvserve.Client) -> None:
        for way in HOLDERS:
            self.report.struck[way] = sum(1 for _ in self._journal(way, "struck"))
        numbers = [each for way in HOLDERS for each in self._journal(way, "held")]
        self.report.locks = len(numbers)
        assert len(set(numbers)) == len(numbers), "two held a lock at once"
        give_up = time.monotonic() + PATIENCE_SECONDS
        while left := [*cache.scan("kvserve:lock:"), *cache.scan("kvserve:claim:")]:
            assert time.monotonic() < give_up, f"nobody is left to hold {left}"
            time.sleep(0.01)

    def _journal(self, way: str, name: str) -> Iterator[tuple[int, int]]:
        return read_journal(self._directory / f"{way}.{name}")
