"""A worker's log lines on their way into the pipe that the parent reads. Never waits for it.

The parent may be stopped, or slower than the lines come. A worker that waited for it would stall
with all its clients; so lines that do not fit into the pipe are counted and left out.

A client can make a worker log as often as it likes. So each kind of line, which is each place in
the code that logs, has a token bucket: lines beyond it are counted, and the count is logged.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass

from kvserve import limits

_SYSLOG_LEVELS = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
# A pipe that can be written to takes this much at once, so no line is torn.
LINE_BYTES_MAX = select.PIPE_BUF
_BEGINNING_BYTES = 1024  # of a line that is too long; its end shows a traceback's error
_CUT = b" [cut] "
_SHOWN_CHARACTERS = 300  # of the last one of several lines


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: float  # when
    suppressed: int = 0
    level: str = ""  # of the last one
    text: str = ""


class PipeHandler(logging.Handler):
    """Writes each record as a line that begins with its level, as sd-daemon(3) has it.

    Args:
        descriptor: the pipe's; it stays the caller's.
        clock: seconds, monotonic.
    """

    def __init__(self, descriptor: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))  # the parent adds the rest
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._lost_lines = 0
        self._clock = clock
        self._buckets: dict[tuple[str, int], _Bucket] = {}  # by place

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record's line, unless the pipe is full, or many of its kind came before."""
        try:
            text = self.format(record)
        except Exception:  # a message that does not suit its arguments
            self.handleError(record)
            return
        bucket = self._bucket(record)
        if bucket.tokens < 1:
            bucket.suppressed += 1
            bucket.level, bucket.text = record.levelname, text[:_SHOWN_CHARACTERS]
            return
        self._tell(bucket)
        bucket.tokens -= 1
        self._put(_line(record.levelname, text))

    def _bucket(self, record: logging.LogRecord) -> _Bucket:
        now = self._clock()
        place = record.pathname, record.lineno
        bucket = self._buckets.get(place)
        if bucket is None:
            bucket = self._buckets[place] = _Bucket(limits.LOG_LINES_AT_ONCE, now)
        more = (now - bucket.filled) * limits.LOG_LINES_A_SECOND
        bucket.tokens = min(limits.LOG_LINES_AT_ONCE, bucket.tokens + more)
        bucket.filled = now
        return bucket

    def _tell(self, bucket: _Bucket) -> None:
        if bucket.suppressed:
            count, bucket.suppressed = bucket.suppressed, 0
            self._put(_line(bucket.level, f"suppressed {count} lines such as: {bucket.text}"))

    def tell_suppressed(self) -> None:
        """Logs how many lines were suppressed, of kinds that have become quiet.

        Called from time to time.
        """
        now = self._clock()
        for bucket in self._buckets.values():
            if bucket.suppressed and now - bucket.filled >= limits.LOG_QUIET_SECONDS:
                self._tell(bucket)

    def _put(self, line: bytes) -> None:
        if self._lost_lines:
            text = f"{self._lost_lines} lines were lost here, because the parent did not read them"
            if not self._write(_line("WARNING", text)):
                self._lost_lines += 1
                return
            self._lost_lines = 0
        self._lost_lines += not self._write(line)

    def _write(self, line: bytes) -> bool:
        if not self._poll.poll(0):
            return False
        try:
            os.write(self._descriptor, line)
        except OSError:  # the parent is gone, which another pipe reports
            return False
        return True


def _line(level: str, text: str) -> bytes:
    """A line of at most `LINE_BYTES_MAX`.

    Example:
        >>> _line("ERROR", "Traceback:\\n  ...\\nKeyError: 1")
        b'<3>Traceback: |   ... | KeyError: 1\\n'
    """
    prefix = f"<{_SYSLOG_LEVELS.get(level, 6)}>"
    line = (prefix + text.replace("\n", " | ")).encode(errors="backslashreplace") + b"\n"
    if len(line) <= LINE_BYTES_MAX:
        return line
    rest_bytes = LINE_BYTES_MAX - _BEGINNING_BYTES - len(_CUT)
    return line[:_BEGINNING_BYTES] + _CUT + line[-rest_bytes:]
