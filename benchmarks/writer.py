"""Goal 4: what does a set cost a process opened as a trusted writer, beside py-lmdb's put?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import kvserve
from benchmarks import report
from benchmarks.caches import SHARED_MEMORY
from benchmarks.effort import Effort
from benchmarks.instance import running
from benchmarks.measuring import alternate, loop_turn
from benchmarks.peers import enter, package
from benchmarks.report import Goal, Report, Table

KEYS = [b"key:%08d" % number for number in range(10_000)]
VALUE = b"x" * 100
DIRECT = 'set, connect(write="direct")'
WORKER = "set, through a worker"
LMDB = "py-lmdb put, one transaction each, no sync, writemap"

Put = Callable[[bytes, bytes], Any]


@contextmanager
def lmdb_put() -> Iterator[Put]:
    lmdb = package("lmdb", "lmdb")
    with (
        tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as directory,
        lmdb.open(directory, map_size=2**28, sync=False, writemap=True) as environment,
    ):

        def put(key: bytes, value: bytes) -> None:
            with environment.begin(write=True) as transaction:
                transaction.put(key, value)

        yield put


def loop(put: Put) -> Callable[[int], None]:
    """Writes one key after the other, again and again: each is an overwrite."""
    for key in KEYS:
        put(key, VALUE)

    def run(count: int) -> None:
        done = 0
        while done < count:
            for key in KEYS[: count - done]:
                put(key, VALUE)
            done += len(KEYS)

    return run


def measure(effort: Effort) -> Report:
    answer = Report()
    with ExitStack() as stack:
        name = stack.enter_context(running("--memory", "64MiB", "--writers", "1"))
        puts = {
            DIRECT: stack.enter_context(kvserve.connect(name, write="direct")).set,
            WORKER: stack.enter_context(kvserve.connect(name)).set,
            LMDB: enter(stack, lmdb_put(), answer.missing),
        }
        turns = {
            what: loop_turn(loop(put), effort.round_seconds)
            for what, put in puts.items()
            if put is not None
        }
        rounds = alternate(turns, effort.rounds, "writer")
    if LMDB in turns:
        ratio = rounds.ratio(DIRECT, LMDB, "ns")
        answer.goals.append(Goal(4, f"{DIRECT} / {LMDB}", ratio, 0.5))
    rows = [[what, rounds.median(what, "ns")] for what in turns]
    answer.tables.append(Table("one set", ["", "ns"], rows))
    return answer


if __name__ == "__main__":
    report.main("writer", measure)
