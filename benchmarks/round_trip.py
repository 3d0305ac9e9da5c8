"""Goal 2: what does one request through a worker cost, beside redis-py and Valkey on a Unix socket?

Every call is timed by itself. Once nothing is pinned; once client and servers share one core.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import kvserve
from benchmarks import report
from benchmarks.effort import Effort
from benchmarks.instance import running
from benchmarks.measuring import Rounds, Turn, alternate, latency_turn, on_cores, one_core
from benchmarks.peers import enter, package, valkey
from benchmarks.report import Goal, Report, Table

SIZES = (100, 1_000, 10_000, 100_000, 2**20)
KEY = b"key:00000001"
BOUNDS = {"unpinned": 0.25, "one core": 0.5}
GOAL_SIZE = 100


@contextmanager
def redis_client() -> Iterator[Any]:
    """redis-py with hiredis on a Valkey of its own."""
    redis = package("redis", "redis[hiredis]")
    package("hiredis", "hiredis")
    with valkey() as peer, redis.Redis(unix_socket_path=peer.socket) as client:
        yield client


def measure(effort: Effort) -> Report:
    answer = Report()
    places: dict[str, AbstractContextManager[None]] = {
        "unpinned": nullcontext(),
        "one core": on_cores(one_core()),
    }
    for place, cores in places.items():
        with cores, ExitStack() as stack:  # servers inherit the cores
            flags = ("--memory", "256MiB", "--item-size", "1024", "--workers", "1")
            name = stack.enter_context(running(*flags))
            clients = {"kvserve": stack.enter_context(kvserve.connect(name, read="worker"))}
            redis = enter(stack, redis_client(), answer.missing)
            if redis is not None:
                clients["redis-py"] = redis
            for size in SIZES:
                turns = _turns(clients, size, effort.round_seconds)
                rounds = alternate(turns, effort.rounds, f"{place}, {size:,} bytes")
                _note(answer, place, size, rounds, list(clients))
    answer.missing = list(dict.fromkeys(answer.missing))
    rows = [[*cell["where"], *cell["figures"]] for cell in answer.data["cells"]]
    columns = ["", "bytes", "client", "operation", "p50 us", "p99 us"]
    answer.tables.append(Table("one request at a time", columns, rows))
    if os.cpu_count() == 1:
        answer.notes.append("this machine has one core: unpinned is pinned")
    return answer


def _turns(clients: dict[str, Any], size: int, seconds: float) -> dict[str, Turn]:
    value = os.urandom(size)
    turns: dict[str, Turn] = {}
    for name, client in clients.items():
        client.set(KEY, value)
        assert client.get(KEY) == value
        turns[f"{name} set"] = latency_turn(lambda client=client: client.set(KEY, value), seconds)
        turns[f"{name} get"] = latency_turn(lambda client=client: client.get(KEY), seconds)
    return turns


def _note(answer: Report, place: str, size: int, rounds: Rounds, clients: list[str]) -> None:
    for client in clients:
        for operation in ("set", "get"):
            turn = f"{client} {operation}"
            figures = [rounds.median(turn, "p50_us"), rounds.median(turn, "p99_us")]
            answer.data.setdefault("cells", []).append(
                {"where": [place, size, client, operation], "figures": figures}
            )
    if size == GOAL_SIZE and "redis-py" in clients:
        for operation in ("set", "get"):
            ratio = rounds.ratio(f"kvserve {operation}", f"redis-py {operation}", "p50_us")
            what = f"{operation}{'' if operation == 'set' else ' through a worker'}, {place}, p50"
            answer.goals.append(Goal(2, f"{what} / redis-py", ratio, BOUNDS[place]))


if __name__ == "__main__":
    report.main("round_trip", measure)
