"""One worker process as the parent sees it: its fork, its pipes, and what its end means.

A worker keeps none of the parent's descriptors but its own pipes and the pid file's. If it held
the write end of another worker's control pipe, that worker would never see the end-of-file that
reports the parent's death. It must keep the pid file's: the lock on it lives as long as the last
process that inherited it.
"""

from __future__ import annotations

import faulthandler
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from kvserve.names import Names
from kvserve.parent.logs import Log, OutputPipe
from kvserve.parent.signals import held_back
from kvserve.worker import exit_codes
from kvserve.worker.worker import run

_MEANINGS = {
    exit_codes.DONE: "done",
    exit_codes.CANNOT_BOOT: "cannot boot",
    exit_codes.PARENT_GONE: "parent gone",
    exit_codes.CRASHED: "crashed",
}


@dataclass(slots=True, eq=False)
class Child:
    """A worker process.

    Args:
        index: the worker's number.
        pid: its process.
        started_at: seconds on the monotonic clock.
        control: the write end of its control pipe; the worker takes its closing for the parent's
            death.
        ready: the read end of the pipe into which it writes when it serves; None once read.
        outputs: its standard output and error; each is removed at its end-of-file.
        is_serving: whether it reported that it serves.
    """

    index: int
    pid: int
    started_at: float
    control: int
    ready: int | None
    outputs: list[OutputPipe]
    is_serving: bool = False

    @property
    def title(self) -> str:
        return f"worker {self.index} (pid {self.pid})"

    def descriptors(self) -> list[int]:
        """The parent's ends of its pipes that are still open."""
        ready = [] if self.ready is None else [self.ready]
        return [self.control, *ready, *(output.fileno() for output in self.outputs)]


def describe_end(status: int) -> tuple[int, str]:
    """The exit code (negative: the signal that killed it) in a wait status, and a phrase for it.

    Example:
        >>> describe_end(5 << 8), describe_end(9)
        ((5, 'left with exit code 5 (crashed)'), (-9, 'was killed by SIGKILL'))
    """
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        try:
            return code, f"was killed by {signal.Signals(-code).name}"
        except ValueError:  # a real-time signal has no name
            return code, f"was killed by signal {-code}"
    meaning = f" ({_MEANINGS[code]})" if code in _MEANINGS else ""
    return code, f"left with exit code {code}{meaning}"


def fork_worker(
    names: Names, index: int, store_url: str, log: Log, in_child: Callable[[], None]
) -> Child:
    """Forks worker `index`.

    Args:
        names: the instance's; passed to the worker.
        store_url: passed to the worker.
        log: where its output will go.
        in_child: runs in the new process; closes the parent's descriptors and drops its handlers.

    Raises:
        OSError: the system has no process or descriptor left; nothing was forked.
    """
    pipes: list[tuple[int, int]] = []
    try:
        for _ in range(4):
            pipes.append(os.pipe())
        with held_back():
            pid = os.fork()
            if pid == 0:
                _become_worker(names, index, store_url, pipes, in_child)
    except BaseException:
        for descriptor in (end for pipe in pipes for end in pipe):
            os.close(descriptor)
        raise
    control, ready, output, errors = pipes
    for descriptor in (control[0], ready[1], output[1], errors[1]):
        os.close(descriptor)
    os.set_blocking(ready[0], False)
    source = f"worker {index}"
    return Child(
        index=index,
        pid=pid,
        started_at=time.monotonic(),
        control=control[1],
        ready=ready[0],
        outputs=[
            OutputPipe(output[0], log, source, pid, "info"),
            OutputPipe(errors[0], log, source, pid, "warning"),
        ],
    )


def _become_worker(
    names: Names,
    index: int,
    store_url: str,
    pipes: list[tuple[int, int]],
    in_child: Callable[[], None],
) -> NoReturn:
    """The rest of the new process's life. It never returns into the parent's frames."""
    control, ready, output, errors = pipes
    code = exit_codes.CRASHED
    try:
        in_child()
        for descriptor in (control[1], ready[0], output[0], errors[0]):
            os.close(descriptor)
        _replace_standard_streams(output[1], errors[1])
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        code = run(names, index, store_url, control[0], ready[1])
    except BaseException:
        # Even SystemExit ends here: the code below os.fork() is the parent's.
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _replace_standard_streams(output: int, errors: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (output, 1), (errors, 2)):
        os.dup2(source, target)
        os.close(source)
    # New streams: the old ones may hold text that the parent has not flushed yet. They are
    # unbuffered, because a buffer would be lost with a worker that is killed.
    sys.stdout, sys.stderr = (_unbuffered(number) for number in (1, 2))
    faulthandler.enable(2)  # a crash of native code prints where


def _unbuffered(descriptor: int) -> io.TextIOWrapper:
    raw = os.fdopen(descriptor, "wb", buffering=0, closefd=False)
    return io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)
