"""The load that `kvserve bench` puts on an instance: processes, measured operations, percentiles.

Each process connects for itself after the fork and takes the time of every operation. What the
measuring costs is measured too, by the same loop over operations that do nothing, and reported;
nothing is subtracted. Every process ends at its deadline on its own, and every key has a time to
live, so that a benchmark that is killed leaves nothing behind for long.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import secrets
import signal
import statistics
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from kvserve.cli.options import connect
from kvserve.errors import (
    InternalError,
    KvserveError,
    OutcomeUnknown,
    RequestTimeout,
    ServerBusy,
    ServerError,
    from_wire,
)

_SAMPLES_MAX = 1_000_000  # of each kind in a process: 8 MB, and sorted within a second
_PLAN_OPERATIONS = 65_536  # drawn before the clock runs, then repeated
_CHUNK_OPERATIONS = 1_024
_BATCH_KEYS = 1_000
_KEY_TTL_SECONDS = 600.0  # beyond the measuring itself
_PATIENCE_SECONDS = 30.0  # for a process to connect, and to report after its deadline

Operation = tuple[str, bool]  # the key, and whether it is written


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to measure: the flags of `kvserve bench`. `mode` is the client's `read`."""

    name: str | None
    timeout: float
    mode: str
    seconds: float
    value_size: int
    keys: int
    processes: int
    write_share: float


@dataclass(slots=True)
class Samples:
    """Latencies of one kind of operation, in nanoseconds, in bounded memory.

    Count and maximum are those of all operations. When the array is full every second latency in
    it is dropped, and of the new ones only every second is kept, and so on.
    """

    latencies_ns: array[int] = field(default_factory=lambda: array("q"))
    count: int = 0
    max_ns: int = 0
    stride: int = 1

    def add(self, chunk_ns: array[int]) -> None:
        """Takes the latencies of a chunk of operations."""
        if not chunk_ns:
            return
        self.max_ns = max(self.max_ns, max(chunk_ns))
        self.latencies_ns.extend(chunk_ns[-self.count % self.stride :: self.stride])
        self.count += len(chunk_ns)
        while len(self.latencies_ns) > _SAMPLES_MAX:
            self.latencies_ns = self.latencies_ns[::2]
            self.stride *= 2


@dataclass(slots=True)
class Measured:
    """What one process measured in `seconds`.

    `clock_ns` is how much of a latency the measuring itself is, `loop_ns` how long the loop takes
    for an operation that does nothing: it bounds what this process can drive.
    """

    hits: Samples = field(default_factory=Samples)
    misses: Samples = field(default_factory=Samples)
    sets: Samples = field(default_factory=Samples)
    failures: int = 0
    seconds: float = 0.0
    clock_ns: float = 0.0
    loop_ns: float = 0.0


def run(load: Load, show: Callable[[float], None]) -> tuple[list[Measured], bool]:
    """Measures.

    Args:
        load: what.
        show: told every tenth of a second how many seconds have passed.

    Returns:
        What each process measured, and whether Ctrl-C ended it early.

    Raises:
        KvserveError: nobody serves, or a process could not go on.
    """
    prefix = f"bench-{secrets.token_hex(4)}:"
    keys = [f"{prefix}{number}" for number in range(load.keys)]
    try:
        _fill(load, keys)
        with _team(load, keys) as team:
            return team.measure(load, show)
    finally:
        with suppress(ServerError):  # then their time to live removes them
            _remove(load, keys)


def _fill(load: Load, keys: Sequence[str]) -> None:
    value = os.urandom(load.value_size)
    with connect(load.name, load.timeout) as cache:
        for batch in _batches(load, keys):
            cache.set_many(dict.fromkeys(batch, value), ttl=load.seconds + _KEY_TTL_SECONDS)


def _remove(load: Load, keys: Sequence[str]) -> None:
    with connect(load.name, load.timeout) as cache:
        for batch in _batches(load, keys):
            cache.delete_many(batch)


def _batches(load: Load, keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """The keys in pieces, each of at most a megabyte of values unless a single one is larger."""
    size = max(1, min(_BATCH_KEYS, 2**20 // max(1, load.value_size)))
    return (keys[start : start + size] for start in range(0, len(keys), size))


class _Team:
    """The measuring processes, as their parent sees them: a pipe to each."""

    def __init__(self) -> None:
        self.processes: list[BaseProcess] = []
        self.pipes: list[Connection[Any, Any]] = []
        self._results: list[Measured] = []

    def start(self, load: Load, keys: Sequence[str]) -> None:
        context = multiprocessing.get_context("fork")  # nothing here has threads
        # Ctrl-C waits until the child can take it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for seed in range(load.processes):
                ours, theirs = context.Pipe()
                self.pipes.append(ours)
                process = context.Process(
                    target=_process, args=(theirs, self.pipes, load, keys, seed), daemon=True
                )
                process.start()
                self.processes.append(process)
                theirs.close()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def measure(self, load: Load, show: Callable[[float], None]) -> tuple[list[Measured], bool]:
        for pipe in self.pipes:
            _receive(pipe, _PATIENCE_SECONDS)
        for pipe in self.pipes:
            pipe.send("go")
        patience = load.seconds + load.timeout + _PATIENCE_SECONDS
        try:
            self._collect(patience, show)
        except KeyboardInterrupt:
            for process in self.processes:
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, signal.SIGINT)
            self._collect(load.timeout + _PATIENCE_SECONDS, lambda _seconds: None)
            return self._results, True
        return self._results, False

    def _collect(self, patience: float, show: Callable[[float], None]) -> None:
        begin = time.monotonic()
        while self.pipes:
            for pipe in wait(self.pipes, 0.1):
                assert isinstance(pipe, Connection)
                self.pipes.remove(pipe)
                self._results.append(_receive(pipe, 0))
            seconds = time.monotonic() - begin
            if seconds > patience:
                raise InternalError("a process of the benchmark does not end")
            show(seconds)

    def dismiss(self) -> None:
        """Ends what still runs. Each process is this one's child, so its pid is still its own."""
        for process in self.processes:
            process.terminate()
            process.join()


@contextmanager
def _team(load: Load, keys: Sequence[str]) -> Iterator[_Team]:
    team = _Team()
    try:
        team.start(load, keys)
        yield team
    finally:
        team.dismiss()


def _receive(pipe: Connection[Any, Any], patience: float) -> Any:
    """What a process sent; raises the error that it met."""
    try:
        if not pipe.poll(patience):
            raise InternalError("a process of the benchmark does not start")
        message = pipe.recv()
    except EOFError:
        raise InternalError("a process of the benchmark died") from None
    if isinstance(message, tuple):
        raise from_wire(*message)
    return message


def _process(
    pipe: Connection[Any, Any],
    parents_ends: Sequence[Connection[Any, Any]],
    load: Load,
    keys: Sequence[str],
    seed: int,
) -> None:
    """The life of a measuring process: connect, say so, wait for the start, measure, report."""
    for parents_end in parents_ends:  # else it would not see that its parent was killed
        parents_end.close()
    driver = _Driver()
    signal.signal(signal.SIGINT, lambda *_: driver.stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        plan = _plan(load, keys, seed)
        value = os.urandom(load.value_size)
        ttl = load.seconds + _KEY_TTL_SECONDS
        with connect(load.name, load.timeout, read=load.mode) as cache:
            measured = _calibrate(plan)
            pipe.send("ready")
            pipe.recv()  # the start
            driver.measure(
                measured, plan, cache.get, lambda key: cache.set(key, value, ttl), load.seconds
            )
            pipe.send(measured)
    except KvserveError as error:
        pipe.send((error.wire_code, str(error)))
    except (BrokenPipeError, EOFError):
        pass  # its parent was killed


def _plan(load: Load, keys: Sequence[str], seed: int) -> list[list[Operation]]:
    """Operations on keys drawn at random, in chunks."""
    draw = random.Random(seed)  # the same at every run
    operations = [
        (key, draw.random() < load.write_share) for key in draw.choices(keys, k=_PLAN_OPERATIONS)
    ]
    return [
        operations[start : start + _CHUNK_OPERATIONS]
        for start in range(0, len(operations), _CHUNK_OPERATIONS)
    ]


def _calibrate(plan: Sequence[Sequence[Operation]]) -> Measured:
    """An empty result that knows what measuring costs here, from operations that do nothing.

    The least of ten rounds: a round in which the system took the processor away tells nothing.
    """
    rounds = [Measured() for _ in range(10)]
    for idle in rounds:
        _Driver().measure(idle, plan, lambda key: key, lambda key: key, 0.01)
    return Measured(
        clock_ns=min(
            statistics.median(idle.hits.latencies_ns + idle.sets.latencies_ns) for idle in rounds
        ),
        loop_ns=min(idle.seconds * 1e9 / (idle.hits.count + idle.sets.count) for idle in rounds),
    )


class _Driver:
    """The measuring loop, and the way to end it before its time."""

    def __init__(self) -> None:
        self._deadline_ns = 0
        self._stopped = False

    def stop(self) -> None:
        """Ends the loop after the current operation; called by the signal handler."""
        self._stopped = True
        self._deadline_ns = 0

    def measure(
        self,
        measured: Measured,
        plan: Sequence[Sequence[Operation]],
        get: Callable[[str], Any],
        put: Callable[[str], Any],
        seconds: float,
    ) -> None:
        """Runs the plan, again and again, for so many seconds."""
        begin_ns = time.perf_counter_ns()
        self._deadline_ns = 0 if self._stopped else begin_ns + int(seconds * 1e9)
        for chunk in itertools.cycle(plan):
            if time.perf_counter_ns() >= self._deadline_ns:
                break
            self._measure_chunk(measured, chunk, get, put)
        measured.seconds = (time.perf_counter_ns() - begin_ns) / 1e9

    def _measure_chunk(
        self,
        measured: Measured,
        chunk: Sequence[Operation],
        get: Callable[[str], Any],
        put: Callable[[str], Any],
    ) -> None:
        clock = time.perf_counter_ns
        hits, misses, sets = array("q"), array("q"), array("q")
        for key, writes in chunk:
            begin = clock()
            try:
                if writes:
                    put(key)
                    end = clock()
                    sets.append(end - begin)
                else:
                    value = get(key)
                    end = clock()
                    (misses if value is None else hits).append(end - begin)
            except (ServerBusy, RequestTimeout, OutcomeUnknown):
                end = clock()
                measured.failures += 1
            if end >= self._deadline_ns:
                break
        measured.hits.add(hits)
        measured.misses.add(misses)
        measured.sets.add(sets)


def percentile(latencies_ns: Sequence[int], share: float) -> int:
    """The nearest-rank percentile of sorted latencies; `share` from 0 to 1.

    Example:
        >>> percentile([10, 20, 30, 40], 0.5), percentile([10, 20, 30, 40], 0.99)
        (20, 40)
    """
    rank = -int(-share * len(latencies_ns) // 1)
    return latencies_ns[max(0, rank - 1)]


def merge(parts: Sequence[Samples]) -> list[int]:
    """All processes' latencies, sorted, each process thinned as much as the one thinned most."""
    stride = max(part.stride for part in parts)
    merged: list[int] = []
    for part in parts:
        merged += part.latencies_ns[:: stride // part.stride]
    return sorted(merged)
