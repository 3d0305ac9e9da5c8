"""One log of everything: the parent's own lines, and what the workers print into their pipes.

Nothing here blocks. A worker's pipe is read as far as it is filled. The log itself may be a pipe
whose reader has stopped, or a terminal stopped by Ctrl-S: then lines wait in a bounded buffer,
those beyond it are counted and dropped, and the count is logged when the log takes lines again.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import time
from collections.abc import Callable
from datetime import UTC, datetime

from kvserve import escaping
from kvserve.config import LOG_LEVELS

LINE_BYTES_MAX = 8192  # of a worker's line; a longer one is cut
PENDING_BYTES_MAX = 256 * 1024  # lines that wait for a blocked log
_READ_BYTES = 64 * 1024  # a pipe's usual capacity
_DRAIN_READS_MAX = 16  # a pipe holds at most 1 MiB, unless a process still fills it
_NEWLINE = ord("\n")
_WRITE_BYTES = select.PIPE_BUF  # a pipe that is "writable" takes this much without blocking

# Our level for each of syslog's, 0 emergency to 7 debug.
_LEVEL_OF_PREFIX = ("error", "error", "error", "error", "warning", "info", "info", "debug")
_PREFIX = re.compile(r"<([0-7])>")
_CONTROL_CHARACTERS = escaping.BEYOND_ASCII | {
    number: f"\\x{number:02x}" for number in (*range(32), 127) if chr(number) != "\t"
}


class Log:
    """Writes lines of text or JSON to a descriptor, without ever waiting for it.

    Args:
        descriptor: where to write; the caller keeps it.
        level: the least level that is written.
        style: "text" or "json".
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        descriptor: int,
        level: str,
        style: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.level = level
        self._descriptor = descriptor
        self._style = style
        self._clock = clock
        self._pending = bytearray()
        self._lost_lines = 0  # not reported in a line yet
        self._told_lines = 0  # reported in a line that still waits
        self._is_within_line = False  # the last byte that was written does not end a line
        self._is_torn = False  # and the rest of that line was dropped

    def write(self, level: str, text: str, source: str = "parent", pid: int = 0) -> None:
        """Logs one line.

        Args:
            level: one of `config.LOG_LEVELS`.
            text: the line; control characters are escaped, so that it stays one line.
            source: which process logs it.
            pid: of that process; 0 means this one.
        """
        if LOG_LEVELS.index(level) < LOG_LEVELS.index(self.level):
            return
        line = self._format(level, text, source, pid or os.getpid())
        self.flush()
        if len(self._pending) + len(line) > PENDING_BYTES_MAX:
            self._lost_lines += 1
            return
        self._pending += line
        self.flush()

    def debug(self, text: str) -> None:
        self.write("debug", text)

    def info(self, text: str) -> None:
        self.write("info", text)

    def warning(self, text: str) -> None:
        self.write("warning", text)

    def error(self, text: str) -> None:
        self.write("error", text)

    def flush(self) -> bool:
        """Writes what waits, as far as the log takes it; True when nothing waits any more."""
        while True:
            while self._pending and self._is_writable():
                try:
                    self._write_some()
                except OSError as error:
                    if error.errno == errno.EAGAIN:
                        break
                    self._give_up()
                    return True
            if self._pending:
                return False
            self._lost_lines -= self._told_lines
            self._told_lines = self._lost_lines
            if not self._lost_lines:
                return True
            text = f"{self._lost_lines} lines were lost here, because the log did not take them"
            self._pending += self._format("warning", text, "parent", os.getpid())

    def _write_some(self) -> None:
        if self._is_torn:
            os.write(self._descriptor, b"\n")
            self._is_torn = False
        written = os.write(self._descriptor, self._pending[:_WRITE_BYTES])
        self._is_within_line = self._pending[written - 1] != _NEWLINE
        del self._pending[:written]

    def _give_up(self) -> None:
        """Drops what waits: the reader is gone, or the disk is full. The service matters more."""
        self._lost_lines += self._pending.count(b"\n") - bool(self._told_lines)
        self._told_lines = 0
        self._is_torn = self._is_within_line
        self._pending.clear()

    def _is_writable(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(0))

    def _format(self, level: str, text: str, source: str, pid: int) -> bytes:
        moment = datetime.fromtimestamp(self._clock(), UTC)
        stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
        if self._style == "json":
            event = {"time": stamp, "level": level, "source": source, "pid": pid, "text": text}
            return json.dumps(event).encode() + b"\n"
        text = text.translate(_CONTROL_CHARACTERS)
        return f"{stamp} {level} {source}[{pid}]: {text}\n".encode(errors="backslashreplace")


class LineSplitter:
    """Cuts a stream of bytes into lines; of an overlong line it keeps the beginning.

    Args:
        line_bytes_max: how many bytes of a line are kept.

    Example:
        >>> splitter = LineSplitter(5)
        >>> splitter.feed(b"on"), splitter.feed(b"e\\nlonger than that\\ntw")
        ([], [b'one', b'longe [cut, 11 bytes more]'])
        >>> splitter.finish()
        [b'tw']
    """

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        self._line_bytes_max = line_bytes_max
        self._line = bytearray()
        self._cut_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in `chunk`, without their newlines."""
        *ends, rest = chunk.split(b"\n")
        lines = []
        for end in ends:
            self._append(end)
            lines.append(self._take())
        self._append(rest)
        return lines

    def finish(self) -> list[bytes]:
        """The last line, if the stream ended in the middle of one."""
        return [self._take()] if self._line else []

    def _append(self, part: bytes) -> None:
        room = self._line_bytes_max - len(self._line)
        self._line += part[:room]
        self._cut_bytes += max(0, len(part) - room)

    def _take(self) -> bytes:
        line = bytes(self._line)
        if self._cut_bytes:
            line += b" [cut, %d bytes more]" % self._cut_bytes
        self._line.clear()
        self._cut_bytes = 0
        return line


def parse_line(line: bytes, level: str) -> tuple[str, str]:
    """The level and the text of a worker's line, which may begin with a prefix as of sd-daemon(3).

    Args:
        line: without its newline.
        level: the level if there is no prefix.

    Example:
        >>> parse_line(b"<3>out of luck", "info"), parse_line(b"plain", "info")
        (('error', 'out of luck'), ('info', 'plain'))
    """
    text = line.decode(errors="backslashreplace").rstrip("\r")
    if match := _PREFIX.match(text):
        return _LEVEL_OF_PREFIX[int(match[1])], text[match.end() :]
    return level, text


class OutputPipe:
    """The read end of the pipe that is a worker's standard output or error.

    Args:
        descriptor: the read end; this object owns it from now on, and makes it non-blocking.
        log: where its lines go.
        source, pid: of the worker.
        level: of lines without a prefix.
    """

    def __init__(self, descriptor: int, log: Log, source: str, pid: int, level: str) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._log = log
        self._source = source
        self._pid = pid
        self._level = level
        self._splitter = LineSplitter()

    def fileno(self) -> int:
        return self._descriptor

    def pump(self) -> bool:
        """Logs what is there, at most one pipe full; False at the end of the file."""
        try:
            chunk = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return True
        self._log_lines(self._splitter.feed(chunk))
        return bool(chunk)

    def drain(self) -> None:
        """Logs all that a dead worker left in the pipe, including an unfinished line."""
        for _ in range(_DRAIN_READS_MAX):
            try:
                chunk = os.read(self._descriptor, _READ_BYTES)
            except BlockingIOError:  # the worker is dead, but a child of it is not
                break
            self._log_lines(self._splitter.feed(chunk))
            if not chunk:
                break
        self._log_lines(self._splitter.finish())

    def close(self) -> None:
        os.close(self._descriptor)

    def _log_lines(self, lines: list[bytes]) -> None:
        for line in lines:
            level, text = parse_line(line, self._level)
            if text:
                self._log.write(level, text, self._source, self._pid)
