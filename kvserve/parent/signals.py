"""Turns signals into events that a selector waits for. Handlers only enqueue, and do nothing else.

The interpreter's own C handler writes the signal's number into a pipe as it arrives (the
self-pipe trick, by `signal.set_wakeup_fd`). So no Python code runs at an arbitrary point of the
parent's work, and a signal is not lost between two waits.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HANDLED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGCHLD,
)
_IGNORED_BY_WORKERS = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_NUMBERS_BYTES_MAX = 65_536  # the pipe's capacity


class SignalInbox:
    """The signals of `HANDLED` that came and were not taken yet.

    Only the main thread may make one, and only one at a time: a process has one wake-up
    descriptor.

    Example:
        >>> import os, signal
        >>> inbox = SignalInbox()
        >>> os.kill(os.getpid(), signal.SIGUSR1)
        >>> inbox.take()
        [<Signals.SIGUSR1: 10>]
        >>> inbox.close()
    """

    def __init__(self) -> None:
        # Not a socket, which has room for only some three hundred single bytes: a TERM behind as
        # many SIGHUPs would be lost. A pipe takes 65,536.
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        # No warning about a full pipe: it holds thousands of signals, and one more adds nothing.
        self._previous_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, _do_nothing) for number in HANDLED}

    def fileno(self) -> int:
        """The descriptor that is readable once a signal came."""
        return self._reader

    def take(self) -> list[signal.Signals]:
        """The signals that came since the last call, in their order."""
        try:
            numbers = os.read(self._reader, _NUMBERS_BYTES_MAX)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in numbers if number in HANDLED]

    def close(self) -> None:
        """Puts back the handlers that were there before."""
        for number, handler in self._previous.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        self._close_pipe()

    def close_in_child(self) -> None:
        """Drops the parent's handlers and descriptors in a freshly forked worker.

        Call it with the signals held back (see `held_back`), or a signal to the worker would be
        written into the parent's inbox. The signals that workers ignore are ignored from here on,
        so that they cannot kill one that has not installed its own handlers yet.
        """
        signal.set_wakeup_fd(-1)
        for number in HANDLED:
            ignored = number in _IGNORED_BY_WORKERS
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        self._close_pipe()

    def _close_pipe(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


@contextmanager
def held_back() -> Iterator[None]:
    """Blocks the handled signals, in this process and in those that it forks meanwhile."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Does nothing: it is installed to replace the signal's default action."""
