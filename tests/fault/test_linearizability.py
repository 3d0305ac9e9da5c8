"""Concurrent histories over few keys, with workers being killed, can be put in one order."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from fault.linearizability import UNKNOWN, Event, is_linearizable, with_doubles
from support.servers import Server

import kvserve

PROCESSES = 5
TURNS_MIN = 50  # of one that begins late
SECONDS = float(os.environ.get("KVSERVE_TEST_LINEARIZABILITY_SECONDS", "6"))
COUNTERS, REGISTERS = ("counter 1", "counter 2"), ("register 1", "register 2", "register 3")
FORK = multiprocessing.get_context("fork")
History = list[tuple[str, Event]]


def write(name: str, argument: Any, answer: Any, began: int = 0, ended: int = 10) -> Event:
    return Event(name, argument, answer, began, ended)


@pytest.mark.parametrize(
    ("events", "verdict"),
    [
        ([write("get", None, None)], True),
        ([write("get", None, 1)], False),
        ([write("set", 1, 7), write("get", None, 1, 11, 12)], True),
        ([write("set", 1, 7), write("get", None, None, 11, 12)], False),
        ([write("set", 1, 7), write("get", None, None, 5, 12)], True),
        ([write("set", 1, UNKNOWN), write("get", None, None, 11, 12)], True),
        (
            [
                write("set", 1, UNKNOWN),
                write("get", None, None, 11, 12),
                write("get", None, 1, 13, 14),
            ],
            True,
        ),
        (
            [
                write("set", 1, UNKNOWN),
                write("get", None, 1, 11, 12),
                write("get", None, None, 13, 14),
            ],
            False,
        ),
        ([write("incr", 1, 1), write("incr", 1, 1, 5, 12)], False),
        ([write("incr", 1, 2), write("incr", 1, 1, 5, 12)], True),
        ([write("incr", 1, UNKNOWN), write("incr", 1, 2, 11, 12)], True),
        ([write("delete", None, True)], False),
        ([write("set", 1, 7), write("cas", (7, 2), True, 11, 12)], True),
        ([write("set", 1, 7), write("cas", (6, 2), True, 11, 12)], False),
        ([write("set", 1, 7), write("cas", (7, 2), False, 11, 12)], False),
        ([write("set", 1, 7), write("gets", None, (1, 8), 11, 12)], False),
    ],
)
def test_the_judge_is_right(events: list[Event], verdict: bool) -> None:
    assert is_linearizable(events) is verdict


def test_a_set_may_be_sent_twice_only_over_a_death() -> None:
    mine, theirs = write("set", 1, 7, 0, 20), write("set", 2, 8, 5, 8)
    reads = [
        write("get", None, 1, 1, 2),
        write("get", None, 2, 9, 10),
        write("get", None, 1, 11, 12),
    ]
    assert not is_linearizable([mine, theirs, *reads])
    assert is_linearizable(with_doubles([mine, theirs, *reads], [(4, 4)]))
    assert is_linearizable(with_doubles([mine, theirs, *reads], [(4, 30)]))
    assert not is_linearizable(with_doubles([mine, theirs, *reads], [(30, 30)]))


def make_history(number: int, name: str, read: Any, until: float, seed: int, results: Any) -> None:
    """What one process does; it puts its history into the queue."""
    chance = random.Random(seed + number)
    history: History = []
    versions: dict[str, int] = {}
    with kvserve.connect(name, timeout=10, read=read) as cache:

        def do(call: Callable[..., Any], key: str, *arguments: Any, argument: Any = None) -> Any:
            began = time.monotonic_ns()
            try:
                answer = call(key, *arguments)
            except (kvserve.OutcomeUnknown, kvserve.RequestTimeout):
                answer = UNKNOWN
            ended = time.monotonic_ns()
            history.append((key, Event(call.__name__, argument, answer, began, ended)))
            return answer

        turn = 0
        while time.monotonic() < until or turn < TURNS_MIN:
            turn += 1
            time.sleep(chance.uniform(0, 0.004))  # a search over longer histories takes too long
            counter, register = chance.choice(COUNTERS), chance.choice(REGISTERS)
            value = number * 1_000_000 + turn
            kind = chance.randrange(10)
            if kind < 3:
                do(cache.incr, counter, argument=1)
            elif kind == 3:
                do(cache.get, counter)
            elif kind < 6:
                do(cache.get, register)
            elif kind == 6:
                do(cache.set, register, value, argument=value)
            elif kind == 7:
                do(cache.delete, register)
            elif kind == 8:
                found = do(cache.gets, register)
                if found != UNKNOWN and found[1] is not None:
                    versions[register] = found[1]
            elif register in versions:
                version = versions[register]
                do(cache.cas, register, value, version, argument=(version, value))
    results.put(history)


@pytest.mark.watchdog(300 + 20 * SECONDS)
@pytest.mark.parametrize("kills", [False, True], ids=["calm", "kills"])
def test_histories(server: Server, kills: bool, seed: int) -> None:
    chance = random.Random(seed)
    results = FORK.Queue()
    until = time.monotonic() + SECONDS
    processes = [
        FORK.Process(
            target=make_history,
            args=(number, server.name, ("direct", "worker")[number % 2], until, seed, results),
        )
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    deaths = []
    while kills and time.monotonic() < until:
        time.sleep(chance.uniform(0.2, 1.0))
        with suppress(ProcessLookupError, IndexError):
            victim, before = chance.choice(server.worker_pids), time.monotonic_ns()
            os.kill(victim, signal.SIGKILL)
            deaths.append((before, time.monotonic_ns()))
    whole: History = [entry for _ in processes for entry in results.get()]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    print(f"{len(whole)} operations, {len(deaths)} kills")
    for key in (*COUNTERS, *REGISTERS):
        events = [event for name, event in whole if name == key]
        assert events
        assert is_linearizable(with_doubles(events, deaths)), f"{key}, seed {seed}"


def test_async_histories(server: Server) -> None:
    """The tasks of one asyncio client, whose requests overtake each other."""

    async def work(cache: kvserve.AsyncClient, history: list[Event], number: int) -> None:
        for turn in range(40):
            began = time.monotonic_ns()
            if (number + turn) % 3:
                answer = await cache.incr("counter", number)
                history.append(Event("incr", number, answer, began, time.monotonic_ns()))
            else:
                answer = await cache.get("counter")
                history.append(Event("get", None, answer, began, time.monotonic_ns()))

    async def main() -> list[Event]:
        history: list[Event] = []
        async with await kvserve.connect_async(server.name, timeout=20) as cache:
            await asyncio.gather(*(work(cache, history, number) for number in range(1, 6)))
        return history

    assert is_linearizable(asyncio.run(main()))
