"""The measuring processes as their parent sees them: fills keys, starts, collects, removes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from kvserve.bench.driver import Load, drive
from kvserve.bench.operations import Draws
from kvserve.bench.samples import Measured
from kvserve.errors import InternalError, ServerError, from_wire

_BATCH_KEYS = 1_000
_PATIENCE_SECONDS = 30.0  # for a process to connect, and to report after its deadline


def run(load: Load, show: Callable[[float], None]) -> tuple[list[Measured], bool]:
    """Measures a load.

    Args:
        load: what to measure.
        show: called every tenth of a second with the seconds that have passed.

    Returns:
        What each process measured, and whether Ctrl-C ended it early.

    Raises:
        KvserveError: the instance is not served, or a process could not go on.
    """
    keys = [f"{load.prefix}{number}" for number in range(load.keys)]
    try:
        _fill(load, keys)
        with _team(load, Draws(load.workload, keys)) as team:
            return team.measure(load, show)
    finally:
        with suppress(ServerError):  # then their time to live removes them
            _remove(load, keys)


def _fill(load: Load, keys: Sequence[str]) -> None:
    value = os.urandom(load.value_size)
    with load.connect() as cache:
        for batch in _batches(load, keys):
            cache.set_many(dict.fromkeys(batch, value), ttl=load.ttl_seconds)


def _remove(load: Load, keys: Sequence[str]) -> None:
    with load.connect() as cache:
        for batch in _batches(load, keys):
            cache.delete_many(batch)
        for number in range(load.processes):
            for batch in _batches(load, load.new_keys(number)):
                cache.delete_many(batch)


def _batches(load: Load, keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """The keys in pieces, each with at most a megabyte of values unless one value is larger."""
    size = max(1, min(_BATCH_KEYS, 2**20 // max(1, load.value_size)))
    return (keys[start : start + size] for start in range(0, len(keys), size))


class _Team:
    """The measuring processes, as their parent sees them: a pipe to each."""

    def __init__(self) -> None:
        self.processes: list[BaseProcess] = []
        self.pipes: list[Connection[Any, Any]] = []
        self._results: list[Measured] = []
        self._interrupted = False

    def start(self, load: Load, draws: Draws[str]) -> None:
        context = multiprocessing.get_context("fork")  # nothing here has threads
        # Ctrl-C is held back until the child can handle it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for number in range(load.processes):
                ours, theirs = context.Pipe()
                self.pipes.append(ours)
                process = context.Process(
                    target=drive, args=(theirs, self.pipes, load, draws, number), daemon=True
                )
                process.start()
                self.processes.append(process)
                theirs.close()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def measure(self, load: Load, show: Callable[[float], None]) -> tuple[list[Measured], bool]:
        for pipe in self.pipes:
            _receive(pipe, _PATIENCE_SECONDS + load.processes)  # the processes share the cores
        for pipe in self.pipes:
            pipe.send("go")
        former = signal.getsignal(signal.SIGINT)
        if former != signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._interrupt)
        try:
            self._collect(load.seconds + load.timeout + _PATIENCE_SECONDS, show)
        finally:
            signal.signal(signal.SIGINT, former)
        return self._results, self._interrupted

    def _interrupt(self, *_: object) -> None:
        """Makes all report what they have. An exception here might lose a report on its way."""
        self._interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends it at once
        for process in self.processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGINT)

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
        """Ends what still runs. All are children of this process, so their pids are not reused."""
        for process in self.processes:
            process.kill()  # a stopped one would never take a TERM
            process.join()


@contextmanager
def _team(load: Load, draws: Draws[str]) -> Iterator[_Team]:
    team = _Team()
    try:
        team.start(load, draws)
        yield team
    finally:
        team.dismiss()


def _receive(pipe: Connection[Any, Any], patience: float) -> Any:
    """What a process sent; raises the error that it reported."""
    try:
        if not pipe.poll(patience):
            raise InternalError("a process of the benchmark does not start")
        message = pipe.recv()
    except EOFError:
        raise InternalError("a process of the benchmark died") from None
    if isinstance(message, tuple):
        raise from_wire(*message)
    return message
