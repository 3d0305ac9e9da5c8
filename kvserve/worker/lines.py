"""A worker's log lines on their way into the pipe that the parent reads. Never waits for it.

The parent may be stopped, or slower than the lines come. A worker that waited for it would stand
still with all its clients; so lines that do not fit into the pipe are counted and left out.
"""

from __future__ import annotations

import logging
import os
import select

_SYSLOG_LEVELS = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
# A pipe that can be written to takes this much at once, so no line is torn.
LINE_BYTES_MAX = select.PIPE_BUF
_BEGINNING_BYTES = 1024  # of a line that is too long; its end says what a traceback is about
_CUT = b" [cut] "


class PipeHandler(logging.Handler):
    """Writes each record as a line that begins with its level, as sd-daemon(3) has it.

    Args:
        descriptor: the pipe's; it stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))  # the parent adds the rest
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._lost_lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record's line, unless the pipe is full."""
        try:
            line = _line(record.levelname, self.format(record))
        except Exception:  # a message that does not suit its arguments
            self.handleError(record)
            return
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
        except OSError:  # the parent is gone, which another pipe tells
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
