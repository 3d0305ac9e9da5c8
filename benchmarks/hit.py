"""Goal 1: what does a hit cost, read from shared memory, beside `dict.get` and py-lmdb's get?

A 12-byte key, a 100-byte value, 10,000 items, the same loop for all; the loop is in the figures.
A hit in a namespace, and one of a value with tags, are compared with a plain one: one key, and
10,000 in turn.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import kvserve
from benchmarks import report
from benchmarks.caches import SHARED_MEMORY
from benchmarks.effort import Effort
from benchmarks.instance import running
from benchmarks.measuring import Turn, alternate, loop_turn
from benchmarks.peers import enter, package
from benchmarks.report import Goal, Report, Table

ITEMS = 10_000
TAGS = 3
KEY = b"key:00000001"
VALUE = b"x" * 100
TTL_SECONDS = 3_600
VALUES: dict[str, Any] = {
    "bytes": VALUE,
    "bytes with a ttl": VALUE,
    "str": VALUE.decode(),
    "int": 123_456,
    "list (msgpack)": [VALUE, 1, None],
}

IN_NAMESPACES: dict[str, Any] = {
    "str": VALUE.decode(),
    "dict": {"id": 1, "name": "Ada", "share": 0.5, "active": True},
}

Get = Callable[[bytes], Any]


def loop(get: Get, key: bytes) -> Callable[[int], None]:
    """The same loop for all."""

    def run(count: int) -> None:
        for _ in itertools.repeat(None, count):
            get(key)

    return run


def loop_over(get: Get, keys: list[bytes]) -> Callable[[int], None]:
    """The same loop over many keys, again and again."""

    def run(count: int) -> None:
        for key in itertools.islice(itertools.cycle(keys), count):
            get(key)

    return run


def namespace_turns(cache: kvserve.Client, seconds: float) -> dict[str, Turn]:
    """Hits in a namespace, in one within it, and plain ones, of the same values."""
    outer = cache.namespace("eu")
    places = {"plain": cache, "namespace": outer, "nested": outer.namespace("inner")}
    turns = {}
    for kind, value in IN_NAMESPACES.items():
        keys = [b"%4s%08d" % (kind.encode(), number) for number in range(ITEMS)]
        for place, where in places.items():
            where.set_many(dict.fromkeys(keys, value))
            assert where.get(keys[0]) == where.get(keys[-1]) == value
            turns[f"{place}: {kind}, 1 key"] = loop_turn(loop(where.get, keys[0]), seconds)
            turns[f"{place}: {kind}, {ITEMS} keys"] = loop_turn(loop_over(where.get, keys), seconds)
    return turns


def add_namespaces(answer: Report, cache: kvserve.Client, effort: Effort) -> None:
    """What a hit in a namespace costs beside a plain one."""
    turns = namespace_turns(cache, effort.round_seconds)
    rounds = alternate(turns, effort.rounds, "hit in a namespace")
    rows: list[list[Any]] = []
    for turn in turns:
        place, _, what = turn.partition(": ")
        ratio = rounds.ratio(turn, f"plain: {what}", "ns")
        rows.append([turn, rounds.median(turn, "ns"), ratio.median])
        if place == "namespace":
            answer.goals.append(Goal(1, f"get of a hit in a namespace, {what} / plain", ratio, 1.3))
    answer.tables.append(Table("one get in a namespace", ["", "ns", "/ plain"], rows))


def tag_turns(cache: kvserve.Client, seconds: float) -> dict[str, Turn]:
    """Hits of values with so many tags; of many keys, each has tags of its own."""
    turns = {}
    for count in range(TAGS + 1):
        keys = [b"t%03d%08d" % (count, number) for number in range(ITEMS)]
        for number, key in enumerate(keys):
            cache.set(key, VALUE.decode(), tags=[f"{number}:{tag}" for tag in range(count)])
        assert cache.get(keys[0]) == cache.get(keys[-1]) == VALUE.decode()
        turns[f"{count} tags: 1 key"] = loop_turn(loop(cache.get, keys[0]), seconds)
        turns[f"{count} tags: {ITEMS} keys"] = loop_turn(loop_over(cache.get, keys), seconds)
    return turns


def add_tags(answer: Report, cache: kvserve.Client, effort: Effort) -> None:
    """What a hit of a value with tags costs beside one without."""
    turns = tag_turns(cache, effort.round_seconds)
    rounds = alternate(turns, effort.rounds, "hit with tags")
    rows: list[list[Any]] = []
    for turn in turns:
        count, _, what = turn.partition(" tags: ")
        ratio = rounds.ratio(turn, f"0 tags: {what}", "ns")
        rows.append([turn, rounds.median(turn, "ns"), ratio.median])
        if count != "0":
            text = f"get of a hit with {count} tags, {what} / without"
            answer.goals.append(Goal(1, text, ratio, 1.0 + int(count)))
    answer.tables.append(Table("one get of a value with tags", ["", "ns", "/ without"], rows))


def items() -> dict[bytes, bytes]:
    return {b"key:%08d" % number: VALUE for number in range(ITEMS)}


@contextmanager
def lmdb_get() -> Iterator[Get]:
    """A get of py-lmdb in a read transaction of its own."""
    lmdb = package("lmdb", "lmdb")
    with (
        tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as directory,
        lmdb.open(directory, map_size=2**28, sync=False) as environment,
    ):
        with environment.begin(write=True) as transaction:
            transaction.cursor().putmulti(items().items())

        def get(key: bytes) -> Any:
            with environment.begin() as transaction:
                return transaction.get(key)

        yield get


def measure(effort: Effort) -> Report:
    answer = Report()
    with ExitStack() as stack:
        name = stack.enter_context(running("--memory", "64MiB", "--workers", "1"))
        cache = stack.enter_context(kvserve.connect(name))
        cache.set_many(items())
        seconds = effort.round_seconds
        turns = {"dict.get": loop_turn(loop(items().get, KEY), seconds)}
        for number, (kind, value) in enumerate(VALUES.items()):
            key = b"kind%08d" % number
            cache.set(key, value, ttl=TTL_SECONDS if "ttl" in kind else None)
            assert cache.get(key) == value
            turns[f"cache.get: {kind}"] = loop_turn(loop(cache.get, key), seconds)
        turns["cache.get: a miss"] = loop_turn(loop(cache.get, b"nobody is he"), seconds)
        if (get := enter(stack, lmdb_get(), answer.missing)) is not None:
            assert get(KEY) == VALUE
            turns["py-lmdb, its own read transaction"] = loop_turn(loop(get, KEY), seconds)
        rounds = alternate(turns, effort.rounds, "hit")
        add_namespaces(answer, cache, effort)
        add_tags(answer, cache, effort)
    for kind in ("bytes", "bytes with a ttl"):
        ours = f"cache.get: {kind}"
        to_dict = rounds.ratio(ours, "dict.get", "ns")
        answer.goals.append(Goal(1, f"get of a hit, {kind} / dict.get", to_dict, 3.0))
        if get is not None:
            to_lmdb = rounds.ratio(ours, "py-lmdb, its own read transaction", "ns")
            answer.goals.append(Goal(1, f"get of a hit, {kind} / py-lmdb", to_lmdb, 0.25))
    answer.tables.append(
        Table(
            "one get",
            ["", "ns", "/ dict.get"],
            [
                [turn, rounds.median(turn, "ns"), rounds.ratio(turn, "dict.get", "ns").median]
                for turn in turns
            ],
        )
    )
    return answer


if __name__ == "__main__":
    report.main("hit", measure)
