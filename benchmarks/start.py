"""Goal 9: how long until a server is ready, cold and warm, and how long does `kvserve get` take?

Cold: 256 MB, from the command to the first answer. Warm: a full table of records of 1,000 bytes,
from the command to the first hit, beside Valkey loading its snapshot of the same records from
/dev/shm. The quick run fills 256 MiB instead of 1 GiB.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from rich.progress import track

import kvserve
from benchmarks import report
from benchmarks.caches import SHARED_MEMORY
from benchmarks.effort import Effort
from benchmarks.instance import as_installed, place, running, serving
from benchmarks.measuring import STDERR, Figures, Rounds, Spread, Turn, alternate
from benchmarks.peers import enter, package, valkey
from benchmarks.report import Goal, Report, Table

COLD_MIB = 256
WARM_MIB = {"quick": 256, "full": 1024}
COLD_BOUND_SECONDS = 0.3
WARM_BOUND = 0.1
COMMAND_BOUND = 5.0
VALUE = os.urandom(1_000)  # of one kind only, and no compression makes it smaller
ITEM_BYTES = 12 + len(VALUE)
BATCH = 500


def measure(effort: Effort) -> Report:
    answer = Report()
    cold = alternate(_cold_turns(answer), effort.rounds, "cold start")
    commands = alternate_commands(effort)
    warm, items = _warm(effort, answer)
    answer.tables += [
        Table(f"cold start with {COLD_MIB} MiB", ["", "seconds"], _rows(cold)),
        Table(
            f"warm start of {WARM_MIB[effort.name]} MiB, {items:,} records",
            ["", "seconds"],
            _rows(warm),
        ),
        Table("one command", ["", "seconds"], _rows(commands)),
    ]
    ready = Spread.of(cold.values("kvserve", "seconds"))
    answer.goals.append(Goal(9, f"ready, {COLD_MIB} MiB", ready, COLD_BOUND_SECONDS, unit="s"))
    if "Valkey" in warm.figures:
        ratio = warm.ratio("kvserve", "Valkey", "seconds")
        answer.goals.append(Goal(9, "warm restart / Valkey's from its snapshot", ratio, WARM_BOUND))
    ratio = commands.ratio("kvserve get", "python -c pass", "seconds")
    answer.goals.append(Goal(9, "kvserve get / python -c pass", ratio, COMMAND_BOUND))
    return answer


def _rows(rounds: Rounds) -> list[list[Any]]:
    return [[name, rounds.median(name, "seconds")] for name in rounds.figures]


def _cold_turns(answer: Report) -> dict[str, Turn]:
    @contextmanager
    def ours() -> Iterator[None]:
        with place() as name, serving(name, "--memory", f"{COLD_MIB}MiB", "--no-keep"):
            yield

    turns = {"kvserve": _start_turn(ours)}
    with ExitStack() as stack:
        if enter(stack, valkey(), answer.missing) is not None:
            turns["Valkey"] = _start_turn(valkey)
    return turns


def _start_turn(start: Callable[[], AbstractContextManager[Any]]) -> Turn:
    def turn() -> Figures:
        started = time.perf_counter()
        with start():
            return {"seconds": time.perf_counter() - started}

    return turn


def _warm(effort: Effort, answer: Report) -> tuple[Rounds, int]:
    """Restarts of a full table, and of a Valkey that has the same records in its snapshot."""
    memory_mib = WARM_MIB[effort.name]
    flags = ("--memory", f"{memory_mib}MiB", "--item-size", str(ITEM_BYTES))
    with ExitStack() as stack:
        name = stack.enter_context(place())
        with serving(name, *flags), kvserve.connect(name, timeout=10) as cache:
            kept = _fill(cache, memory_mib * 2**20 // ITEM_BYTES)

        @contextmanager
        def ours() -> Iterator[None]:
            with serving(name, *flags), kvserve.connect(name) as cache:
                assert cache.get(kept[-1]) == VALUE
                yield

        turns = {"kvserve": _start_turn(ours)}
        directory = stack.enter_context(tempfile.TemporaryDirectory(dir=SHARED_MEMORY))
        with ExitStack() as filling:
            if enter(filling, _snapshot(kept, directory), answer.missing) is not None:
                turns["Valkey"] = _start_turn(lambda: _loaded(kept, directory))
        return alternate(turns, effort.rounds, "warm start"), len(kept)


def _fill(cache: Any, count: int) -> list[bytes]:
    """Sets more records than fit; the keys of those that are there then."""
    keys = [b"key:%08d" % number for number in range(count)]
    for start in track(range(0, count, BATCH), "filling", console=STDERR, transient=True):
        cache.set_many(dict.fromkeys(keys[start : start + BATCH], VALUE))
    return [key for key in keys if key in cache]


@contextmanager
def _snapshot(keys: list[bytes], directory: str) -> Iterator[bool]:
    """Writes a Valkey's snapshot of these records into the directory."""
    redis = package("redis", "redis[hiredis]")
    with valkey(directory=directory) as peer:
        with redis.Redis(unix_socket_path=peer.socket) as client:
            for start in range(0, len(keys), BATCH):
                client.mset(dict.fromkeys(keys[start : start + BATCH], VALUE))
            client.save()
        yield True


@contextmanager
def _loaded(keys: list[bytes], directory: str) -> Iterator[None]:
    redis = package("redis", "redis[hiredis]")
    with (
        valkey(directory=directory) as peer,
        redis.Redis(unix_socket_path=peer.socket) as client,
    ):
        assert client.get(keys[-1]) == VALUE
        yield


def alternate_commands(effort: Effort) -> Rounds:
    """`kvserve get` of a key that is there, and a Python that does nothing."""
    with running("--memory", "64MiB") as name:
        with kvserve.connect(name) as cache:
            cache.set("greeting", "hello")
        get = [sys.executable, "-P", "-m", "kvserve", "get", "greeting", "--name", name]
        commands = {"kvserve get": get, "python -c pass": [sys.executable, "-c", "pass"]}
        turns = {what: _command_turn(command) for what, command in commands.items()}
        return alternate(turns, max(effort.rounds, 11), "commands")


def _command_turn(command: list[str]) -> Turn:
    def turn() -> Figures:
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=as_installed())
        return {"seconds": time.perf_counter() - started}

    return turn


if __name__ == "__main__":
    report.main("start", measure)
