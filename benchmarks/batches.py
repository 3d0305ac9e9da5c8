"""Goal 3: what does an item of a batch of 100 cost, beside a redis-py pipeline and a dict?"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import kvserve
from benchmarks import report
from benchmarks.effort import Effort
from benchmarks.instance import running
from benchmarks.measuring import Turn, alternate, loop_turn
from benchmarks.peers import enter
from benchmarks.report import Goal, Report, Table
from benchmarks.round_trip import redis_client

BATCH = 100
VALUE = b"x" * 100
KEYS = [b"key:%08d" % number for number in range(BATCH)]
ITEMS = dict.fromkeys(KEYS, VALUE)


def measure(effort: Effort) -> Report:
    answer = Report()
    with ExitStack() as stack:
        name = stack.enter_context(running("--memory", "64MiB"))
        direct = stack.enter_context(kvserve.connect(name))
        worker = stack.enter_context(kvserve.connect(name, read="worker"))
        redis = enter(stack, redis_client(), answer.missing)
        direct.set_many(ITEMS)
        assert direct.get_many(KEYS) == worker.get_many(KEYS) == ITEMS
        items = dict(ITEMS)
        calls: dict[str, Callable[[], Any]] = {
            "[items.get(key) for key in keys]": lambda: [items.get(key) for key in KEYS],
            "get_many, direct": lambda: direct.get_many(KEYS),
            "get_many, worker": lambda: worker.get_many(KEYS),
            "set_many": lambda: worker.set_many(ITEMS),
        }
        if redis is not None:
            calls |= {
                "redis-py pipeline of gets": lambda: _pipeline(redis, "get", [[k] for k in KEYS]),
                "redis-py mget": lambda: redis.mget(KEYS),
                "redis-py pipeline of sets": lambda: _pipeline(redis, "set", ITEMS.items()),
                "redis-py mset": lambda: redis.mset(ITEMS),
            }
        turns = {what: _turn(call, effort) for what, call in calls.items()}
        rounds = alternate(turns, effort.rounds, "batches of 100")
    compared = [("get_many, direct", "[items.get(key) for key in keys]", 2.0)]
    if redis is not None:
        compared += [
            ("get_many, worker", "redis-py pipeline of gets", 0.5),
            ("set_many", "redis-py pipeline of sets", 0.5),
        ]
    for ours, theirs, bound in compared:
        ratio = rounds.ratio(ours, theirs, "ns")
        answer.goals.append(Goal(3, f"{ours} / {theirs}", ratio, bound))
    rows = [[what, rounds.median(what, "ns")] for what in turns]
    answer.tables.append(Table("batches of 100", ["", "ns an item"], rows))
    return answer


def _pipeline(client: Any, command: str, arguments: Any) -> None:
    with client.pipeline(transaction=False) as pipeline:
        call = getattr(pipeline, command)
        for each in arguments:
            call(*each)
        pipeline.execute()


def _turn(call: Callable[[], Any], effort: Effort) -> Turn:
    def run(count: int) -> None:
        for _ in itertools.repeat(None, count):
            call()

    return loop_turn(run, effort.round_seconds, BATCH)


if __name__ == "__main__":
    report.main("batches", measure)
