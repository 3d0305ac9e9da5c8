"""Exit statuses, and how errors map to them. Knows nothing of click."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from kvserve.errors import InternalError, KvserveError, MisuseError, UnreadableValue
from kvserve.escaping import visible
from kvserve.shortages import shortage

DONE = 0
REFUSED = 1  # a miss, or a condition that does not hold: for `if kvserve get ...`
USAGE = 2  # click's own
NO_SERVER = 3  # or no answer in time, or a limit of the system
UNREADABLE = 65  # EX_DATAERR of sysexits.h
BUG = 70  # EX_SOFTWARE
OUTPUT_FAILED = 74  # EX_IOERR, for a full disk behind `>`
INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended
PIPE_CLOSED = 141  # the same for SIGPIPE
_BUG = "kvserve: this is a bug; please report it with the lines above"


@contextmanager
def exit_statuses(
    interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
    passing: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Prints an error as one sentence, and turns it into an exit status.

    Args:
        interrupts: what is raised when a person interrupts a command.
        passing: errors that pass unchanged.
    """
    try:
        yield
    except KvserveError as error:
        _tell(visible(f"kvserve: {error or type(error).__name__}"))
        raise SystemExit(exit_status(error)) from None
    except BrokenPipeError:
        _abandon(sys.stdout)
        raise SystemExit(PIPE_CLOSED) from None
    except interrupts:
        raise SystemExit(INTERRUPTED) from None
    except passing:
        raise
    except Exception as error:
        if text := shortage(error):
            _tell(f"kvserve: {text}")
            raise SystemExit(NO_SERVER) from None
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else "reading or writing failed: "
            _tell(visible(f"kvserve: {where}{error.strerror or error}"))
            _abandon(sys.stdout)
            raise SystemExit(OUTPUT_FAILED) from None
        import traceback  # not above: it is slow to import

        # Python's own status for this, 1, would look like a miss.
        _tell(visible(traceback.format_exc(), keep="\n") + _BUG)
        raise SystemExit(BUG) from None


def exit_status(error: KvserveError) -> int:
    """The exit status for an error: it depends on the error's family, see kvserve.errors.

    Example:
        >>> from kvserve.errors import InvalidKey, ServerBusy
        >>> exit_status(InvalidKey()), exit_status(ServerBusy())
        (2, 3)
    """
    if isinstance(error, MisuseError):
        return USAGE
    if isinstance(error, UnreadableValue):
        return UNREADABLE
    return BUG if isinstance(error, InternalError) else NO_SERVER


def _abandon(stream: TextIO) -> None:
    """Points a stream at /dev/null: the flush at the interpreter's end would fail again."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return  # a stand-in without a descriptor
    with suppress(OSError):  # no descriptor is left
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _tell(text: str) -> None:
    try:
        print(text, file=sys.stderr)
    except OSError:  # a full disk; the status still shows the error
        _abandon(sys.stderr)
