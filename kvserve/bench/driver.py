"""One measuring process: connects, times every operation, reports.

It also measures what the measuring costs, by the same loop over operations that do nothing, and
reports that; nothing is subtracted. A process ends at its deadline, at a signal, or when its
parent is gone.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import statistics
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import kvserve
from kvserve.bench.operations import INSERTS_MAX, READ, WRITE, Draws, Workload
from kvserve.bench.samples import Measured
from kvserve.errors import KvserveError, OutcomeUnknown, RequestTimeout, ServerBusy

_PLAN_OPERATIONS = 65_536  # drawn before the clock runs, then repeated
_CHUNK_OPERATIONS = 1_024
_KEY_TTL_SECONDS = 600.0  # beyond the measuring itself

# Arguments of `kvserve.connect`. A worker executes the sets, except in the last mode.
MODES: dict[str, dict[str, Any]] = {
    "direct": {"read": "direct"},
    "worker": {"read": "worker"},
    "writer": {"write": "direct"},
}

Operation = tuple[int, str]  # READ, WRITE or MODIFY, and the key


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to measure: the flags of `kvserve bench`.

    `mode` is one of MODES, `workload_name` the workload's name in the report. All keys begin with
    `prefix`.
    """

    name: str | None
    timeout: float
    mode: str
    seconds: float
    value_size: int
    keys: int
    processes: int
    workload_name: str
    workload: Workload
    prefix: str

    def connect(self) -> kvserve.Client:
        """A client of the instance, in the load's mode."""
        return kvserve.connect(self.name, timeout=self.timeout, **MODES[self.mode])

    @property
    def ttl_seconds(self) -> float:
        """The ttl of every key, so that a killed benchmark leaves nothing behind for long."""
        return self.seconds + _KEY_TTL_SECONDS

    def new_keys(self, number: int) -> list[str]:
        """The keys that a process may insert."""
        if self.workload.popularity != "latest":
            return []
        return [f"{self.prefix}{number}.{inserted}" for inserted in range(INSERTS_MAX)]


def drive(
    pipe: Connection[Any, Any],
    parents_ends: Sequence[Connection[Any, Any]],
    load: Load,
    draws: Draws[str],
    number: int,
) -> None:
    """Runs a measuring process: connects, says so, waits for the start, measures, reports."""
    for parents_end in parents_ends:  # else it would not notice its parent's death
        parents_end.close()
    driver = _Driver()
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: driver.stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        operations = draws.operations(_PLAN_OPERATIONS, load.new_keys(number), str(number))
        plan = [
            operations[start : start + _CHUNK_OPERATIONS]
            for start in range(0, len(operations), _CHUNK_OPERATIONS)
        ]
        value = os.urandom(load.value_size)
        ttl = load.ttl_seconds
        with load.connect() as cache:
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


def _calibrate(plan: Sequence[Sequence[Operation]]) -> Measured:
    """An empty result with the cost of measuring here, found by operations that do nothing.

    It takes the least of all chunks, because the system may have taken the processor away during a
    chunk. It runs a number of chunks, not for a time: among many processes one may get the
    processor only when its time is over.
    """
    driver = _Driver()
    costs = []
    for chunk in plan:
        idle = Measured()
        begin_ns = time.perf_counter_ns()
        driver.measure_chunk(idle, chunk, lambda key: key, lambda key: key)
        loop_ns = (time.perf_counter_ns() - begin_ns) / len(chunk)
        costs.append((statistics.median(idle.latencies_ns()), loop_ns))
    clocks_ns, loops_ns = zip(*costs, strict=True)
    return Measured(clock_ns=min(clocks_ns), loop_ns=min(loops_ns))


class _Driver:
    """The measuring loop, and the way to end it before its time."""

    def __init__(self) -> None:
        self._deadline_ns = math.inf
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
        """Runs the plan again and again for `seconds`, or until the parent is gone."""
        parent_pid = os.getppid()
        begin_ns = time.perf_counter_ns()
        self._deadline_ns = 0 if self._stopped else begin_ns + int(seconds * 1e9)
        for chunk in itertools.cycle(plan):
            if time.perf_counter_ns() >= self._deadline_ns or os.getppid() != parent_pid:
                break
            self.measure_chunk(measured, chunk, get, put)
        measured.seconds = (time.perf_counter_ns() - begin_ns) / 1e9

    def measure_chunk(
        self,
        measured: Measured,
        chunk: Sequence[Operation],
        get: Callable[[str], Any],
        put: Callable[[str], Any],
    ) -> None:
        """Runs a chunk of the plan once, unless the deadline comes first."""
        clock = time.perf_counter_ns
        hits, misses, sets, modifications = array("q"), array("q"), array("q"), array("q")
        for kind, key in chunk:
            begin = clock()
            try:
                if kind == READ:
                    value = get(key)
                    end = clock()
                    (misses if value is None else hits).append(end - begin)
                elif kind == WRITE:
                    put(key)
                    end = clock()
                    sets.append(end - begin)
                else:
                    get(key)
                    put(key)
                    end = clock()
                    modifications.append(end - begin)
            except (ServerBusy, RequestTimeout, OutcomeUnknown):
                end = clock()
                measured.failures += 1
            if end >= self._deadline_ns:
                break
        taken = {"get": hits, "miss": misses, "set": sets, "modify": modifications}
        for name, latencies_ns in taken.items():
            measured.samples[name].add(latencies_ns)
