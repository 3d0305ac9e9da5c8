"""Forked processes for tests: some that begin at once, or one that is told what happens when."""

from __future__ import annotations

import ctypes
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

KINDS = ("blocking", "asyncio")  # of clients
TIMEOUT = 20.0  # seconds for each of their requests: two cores run all of a crew
Fork = Callable[[], int]
_SETTLING_SECONDS = 0.05


def unseen_fork() -> int:
    """A fork of which Python hears nothing, as uWSGI's.

    A thread that waits for the GIL just then leaves a waiter in it that the child does not have,
    and the child may wait for that for ever: CPython makes a new one only in `os.fork`. So threads
    that were begun a moment ago get time to fall asleep.
    """
    time.sleep(_SETTLING_SECONDS)
    return int(ctypes.PyDLL(None).fork())


# One that Python runs its hooks for, and one as C code makes it.
FORKS: dict[str, Fork] = {"python's": os.fork, "c's": unseen_fork}


class Member:
    """A forked process, with a pipe to and fro.

    Args:
        work: what it does, given its end of the pipe; what it returns is sent last.
        fork: how it is made.
    """

    def __init__(self, work: Callable[[Connection], Any], fork: Fork = os.fork) -> None:
        self._ours, theirs = Pipe()
        self.pid = fork()
        if self.pid == 0:
            status = 1
            try:
                self._ours.close()
                theirs.send(work(theirs))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        theirs.close()

    def hear(self) -> Any:
        """The next thing that it says, or what it returned."""
        try:
            return self._ours.recv()
        except EOFError:
            raise AssertionError(f"process {self.pid} ended without a word; see above") from None

    def tell(self, what: Any = None) -> None:
        """Says something to it."""
        self._ours.send(what)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal; waits until it has stopped, if it does."""
        os.kill(self.pid, number)
        if number == signal.SIGSTOP:
            os.waitpid(self.pid, os.WUNTRACED)

    def end(self) -> None:
        """Reaps it, by force if it still runs."""
        self._ours.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@contextmanager
def crew(
    size: int, work: Callable[[Connection, int], Any], fork: Fork = os.fork
) -> Iterator[list[Member]]:
    """Processes that do the same, each with its number, and begin when all are there."""
    members = [Member(lambda pipe, n=number: _begin(pipe, work, n), fork) for number in range(size)]
    try:
        for member in members:
            member.hear()
        for member in members:
            member.tell()
        yield members
    finally:
        for member in members:
            member.end()


def _begin(pipe: Connection, work: Callable[[Connection, int], Any], number: int) -> Any:
    pipe.send("ready")
    pipe.recv()
    return work(pipe, number)


def together(size: int, work: Callable[[int], Any], fork: Fork = os.fork) -> list[Any]:
    """What each process of a crew returned."""
    with crew(size, lambda _, number: work(number), fork) as members:
        return [member.hear() for member in members]


class Journal:
    """A file that any number of processes append lines to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def write(self, line: object) -> None:
        """Appends a line, whole."""
        with self._path.open("ab", buffering=0) as file:
            file.write(f"{line}\n".encode())

    @property
    def lines(self) -> list[str]:
        """All lines, in order."""
        return self._path.read_text().splitlines()


def noting(journal: Journal) -> Callable[[], int]:
    """A computation that notes its process, and returns it."""

    def compute() -> int:
        journal.write(os.getpid())
        return os.getpid()

    return compute
