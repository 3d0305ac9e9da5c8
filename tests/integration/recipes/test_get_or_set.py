"""get_or_set in real processes: one computes, the others wait, and whoever fails is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from conftest import Eventually
from support.crews import KINDS, TIMEOUT, Journal, Member, crew, noting, together
from support.servers import Server

import kvserve

LEASE_KEY = "kvserve:claim:key"


def ask(
    kind: str, name: str, compute: Callable[[], Any], *, seconds: float = 0.0, **how: Any
) -> Any:
    """get_or_set of `key` by a client of this kind; the computation takes some seconds at first."""
    if kind == "blocking":

        def factory() -> Any:
            time.sleep(seconds)
            return compute()

        with kvserve.connect(name, timeout=TIMEOUT) as cache:
            return cache.get_or_set("key", factory, **how)

    async def slow_factory() -> Any:
        await asyncio.sleep(seconds)
        return compute()

    async def main() -> Any:
        async with await kvserve.connect_async(name, timeout=TIMEOUT) as cache:
            return await cache.get_or_set("key", slow_factory, **how)

    return asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_processes_that_miss_at_once_cause_one_computation(
    kind: str, served: Server, cache: kvserve.Client, journal: Journal
) -> None:
    values = together(16, lambda _: ask(kind, served.name, noting(journal), seconds=0.3, ttl=60))
    assert [str(value) for value in values] == journal.lines * 16
    assert cache.get("key") == values[0]
    assert LEASE_KEY not in cache


def test_both_kinds_of_client_and_threads_and_tasks_share_one_computation(
    served: Server, cache: kvserve.Client, journal: Journal
) -> None:
    async def tasks() -> list[Any]:
        async def factory() -> Any:
            await asyncio.sleep(0.2)
            return noting(journal)()

        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:
            asking = [client.get_or_set("key", factory, 60) for _ in range(20)]
            threads = [
                asyncio.to_thread(cache.get_or_set, "key", noting(journal), 60) for _ in range(4)
            ]
            return await asyncio.gather(*asking, *threads)

    def work(number: int) -> Any:
        if number % 2:
            return asyncio.run(tasks())
        return [ask("blocking", served.name, noting(journal), seconds=0.2, ttl=60)]

    values = {value for values in together(4, work) for value in values}
    assert [str(value) for value in values] == journal.lines


@pytest.mark.parametrize("kind", KINDS)
def test_killed_computer_is_replaced_when_its_lease_ends(
    kind: str, served: Server, cache: kvserve.Client, journal: Journal
) -> None:
    left = 0.5  # of the lease

    def hang(pipe: Connection) -> None:
        def compute() -> None:
            pipe.send("computing")
            time.sleep(3600)

        ask(kind, served.name, compute, claim_ttl=3600)

    def wait(_: Connection, number: int) -> Any:
        def compute() -> int:
            journal.write(time.clock_gettime(time.CLOCK_BOOTTIME))
            return number

        return ask(kind, served.name, compute, seconds=0.2, claim_ttl=3600)

    computer = Member(hang)
    try:
        assert computer.hear() == "computing"
        with crew(3, wait) as members:
            time.sleep(0.5)  # some waiters wait, some will come later
            computer.signal(signal.SIGKILL)
            killed = time.clock_gettime(time.CLOCK_BOOTTIME)
            assert cache.touch(LEASE_KEY, left)  # as if the rest of it were over
            values = [member.hear() for member in members]
    finally:
        computer.end()
    assert values == values[:1] * 3
    assert len(journal.lines) == 1
    assert float(journal.lines[0]) >= killed + left - 0.1  # it was waited for


@pytest.mark.parametrize("kind", KINDS)
def test_when_the_factory_raises_the_next_in_line_computes(
    kind: str, served: Server, cache: kvserve.Client, journal: Journal, tmp_path: Path
) -> None:
    def compute() -> str:
        journal.write(os.getpid())
        try:
            (tmp_path / "first").touch(exist_ok=False)
        except FileExistsError:
            return "value"
        raise StopIteration("mine")  # a kind that a generator would swallow

    def work(_: int) -> Any:
        try:
            return ask(kind, served.name, compute, seconds=0.1, claim_ttl=60)
        except (StopIteration, RuntimeError) as error:  # what Python makes of it in a coroutine
            return repr(error)

    values = together(4, work)
    assert values.count("value") == 3
    assert len(journal.lines) == 2
    [error] = [value for value in values if value != "value"]
    assert ("StopIteration('mine')" if kind == "blocking" else "StopIteration") in error
    assert LEASE_KEY not in cache


@pytest.mark.parametrize("kind", KINDS)
def test_stale_value_is_served_at_once_while_one_recomputes(
    kind: str, served: Server, cache: kvserve.Client, journal: Journal, eventually: Eventually
) -> None:
    how = {"ttl": 0.2, "stale": 3600.0}
    assert ask(kind, served.name, lambda: "old", **how) == "old"
    eventually(lambda: (cache.ttl("key") or 0) <= 3600.0)

    def recompute(pipe: Connection) -> Any:
        def compute() -> str:
            pipe.send("computing")
            pipe.recv()
            return "new"

        return ask(kind, served.name, compute, **how)

    computer = Member(recompute)
    try:
        assert computer.hear() == "computing"
        # It cannot end before we tell it to, so to come back at all is not to have waited.
        for _ in range(3):
            assert ask(kind, served.name, noting(journal), **how) == "old"
        assert cache.get("key") == "old"
        computer.tell()
        assert computer.hear() == "new"
    finally:
        computer.end()
    assert cache.get("key") == "new"
    assert journal.lines == []


@pytest.mark.parametrize("kind", KINDS)
def test_long_computation_keeps_its_lease(kind: str, served: Server, journal: Journal) -> None:
    lease = 3.0  # renewed every second, so that one may be two seconds late
    values = together(
        4, lambda _: ask(kind, served.name, noting(journal), seconds=lease + 0.5, claim_ttl=lease)
    )
    assert [str(value) for value in values] == journal.lines * 4


@pytest.mark.parametrize("kind", KINDS)
def test_computer_that_was_stopped_beyond_its_lease_stores_nothing(
    kind: str, served: Server, cache: kvserve.Client
) -> None:
    def compute(pipe: Connection) -> Any:
        def slow() -> str:
            pipe.send("computing")
            pipe.recv()
            return "too late"

        return ask(kind, served.name, slow, claim_ttl=0.3)

    computer = Member(compute)
    try:
        computer.hear()
        computer.signal(signal.SIGSTOP)
        assert ask(kind, served.name, lambda: "in time") == "in time"
        computer.signal(signal.SIGCONT)
        computer.tell()
        assert computer.hear() == "too late"
    finally:
        computer.end()
    assert cache.get("key") == "in time"
