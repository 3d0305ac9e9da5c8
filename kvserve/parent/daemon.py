"""Detaches a server from its terminal, while the launching process waits until it serves.

Two forks: the first leaves the caller's process group behind (setsid), the second makes sure that
the server leads no session and so never gets a terminal again. A pipe reports back: the word
"ready", or the failure. The launching process ends as the server's start did.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from kvserve.errors import InternalError, KvserveError, LimitError, ServerError, from_wire
from kvserve.shortages import refusal, room_for

_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)  # at its start, so that writing raises
_READY = b"ready"
_REPORT_BYTES_MAX = 64 * 1024


class Daemon:
    """A server's life in the background: its log file, and its report to the launching process.

    Args:
        descriptor: the write end of the pipe to the launching process.
        log_file: where standard output and error go.
    """

    def __init__(self, descriptor: int, log_file: Path) -> None:
        self._descriptor: int | None = descriptor
        self._log_file = log_file

    def open_log(self) -> None:
        """Makes descriptors 1 and 2 append to the log file; called again, reopens it.

        So logrotate can move the log away and send SIGHUP.

        Raises:
            ServerError: it is no plain file, or cannot be opened.
        """
        descriptor = _open_log(self._log_file)
        try:
            for standard in (1, 2):
                os.dup2(descriptor, standard)
        except OSError as error:
            raise ServerError(f"{self._log_file}: {error.strerror}") from None
        finally:
            os.close(descriptor)

    @property
    def has_lost_log(self) -> bool:
        """Whether the log file's name is gone."""
        try:
            self._log_file.lstat()
        except OSError:
            return True
        return False

    def ready(self) -> None:
        """Reports success to the launching process, which then exits."""
        self._report(_READY)

    def failed(self, error: BaseException) -> None:
        """Reports the failure to the launching process."""
        if not isinstance(error, KvserveError) and (text := refusal(error)):
            error = LimitError(text)
        code = error.wire_code if isinstance(error, KvserveError) else InternalError.wire_code
        self._report(f"{code} {error}".encode(errors="backslashreplace"))

    def close_in_child(self) -> None:
        """Closes the pipe in a worker: the launching process waits for its last copy."""
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _report(self, message: bytes) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # the launching process was interrupted
                os.write(descriptor, message[:_REPORT_BYTES_MAX])
            os.close(descriptor)


def _open_log(path: Path) -> int:
    # Without waiting: the path may lead to a FIFO without a reader.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        with room_for(path):
            descriptor = os.open(path, flags, 0o640)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise ServerError(f"the log {path} is not a plain file; remove it") from None
        raise ServerError(f"the log {path} cannot be opened: {error.strerror}") from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise ServerError(f"the log {path} is not a plain file; remove it")


def launch(body: Callable[[Daemon], int], log_file: Path) -> int:
    """Runs `body` in a daemon, and waits until it reports that it serves.

    Args:
        body: the server's whole life; gets the daemon, returns the exit status.
        log_file: which file to name when the server ends without a report.

    Returns:
        0, in the launching process. The daemon itself never returns.

    Raises:
        KvserveError: what the server's start raised.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    first = os.fork()
    if first == 0:
        os.close(reader)
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        _live(body, Daemon(writer, log_file))
    os.close(writer)
    with os.fdopen(reader, "rb") as report:
        message = report.read()
    with contextlib.suppress(ChildProcessError):  # where its parent left SIGCHLD ignored
        os.waitpid(first, 0)
    if message == _READY:
        return 0
    code, _, text = message.decode(errors="backslashreplace").partition(" ")
    if not code.isdecimal():
        raise ServerError(f"the server ended before it was ready; its log says why: {log_file}")
    raise from_wire(int(code), text)


def _live(body: Callable[[Daemon], int], daemon: Daemon) -> None:
    status = 1
    try:
        _reset_signals()
        os.chdir("/")  # keep no file system busy
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        status = body(daemon)
    except BaseException as error:
        if not isinstance(error, KvserveError) and refusal(error) is None:
            traceback.print_exc()
        daemon.failed(error)
    finally:
        os._exit(status)


def _reset_signals() -> None:
    """Takes back what the launching process left ignored or blocked, which exec does not: a program
    that ignores SIGTERM, or a script behind nohup, must not make a server that never ends."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):  # the C library keeps some for itself
            if signal.getsignal(number) == signal.SIG_IGN and number not in _PYTHON_IGNORES:
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def open_standard_descriptors() -> None:
    """Opens /dev/null as each of the descriptors 0, 1 and 2 that is closed.

    Otherwise the next file or pipe would get that number, and output would go there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
