"""Traces of a cache's requests: opened, read line by line, checked. docs/bench.md has more.

A line is a request: KEY [BYTES] [get|set|delete]; only the key is required. A key is any bytes
but white space. A file whose name ends in .gz or .xz is compressed.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import SEEK_END
from itertools import islice
from pathlib import Path
from typing import IO, cast

from kvserve.errors import InvalidArgument
from kvserve.limits import KEY_BYTES_MAX

GET, SET, DELETE = range(3)
LINE_BYTES_MAX = 2 * KEY_BYTES_MAX  # a key, two words, and room for blanks
CHUNK_REQUESTS = 4_096

_OPERATIONS = {b"get": GET, b"set": SET, b"delete": DELETE}
_FORMAT = "a line is KEY [BYTES] [get|set|delete]"

Request = tuple[int, bytes, int | None]  # GET, SET or DELETE; the key; the value's bytes if given


class Trace:
    """A trace that can be read several times; made by `opened`.

    Args:
        name: the file's, for messages.
        raw: the file, seekable.
    """

    def __init__(self, name: str, raw: IO[bytes]) -> None:
        self.name = name
        self.size_bytes = raw.seek(0, SEEK_END)
        self._raw = raw

    def chunks(self, show: Callable[[int], None]) -> Iterator[list[Request]]:
        """All requests in order, some thousands at a time.

        Args:
            show: called after each chunk with the bytes of the file that have been read.

        Raises:
            InvalidArgument: a line is no request, or a compressed file is damaged.
        """
        self._raw.seek(0)
        try:
            with self._text() as text:
                requests = self._requests(iter(lambda: text.readline(LINE_BYTES_MAX), b""))
                while chunk := list(islice(requests, CHUNK_REQUESTS)):
                    yield chunk
                    show(self._raw.tell())
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise InvalidArgument(f"{self.name} cannot be decompressed: {error}") from None

    @contextmanager
    def _text(self) -> Iterator[IO[bytes]]:
        if self.name.endswith(".gz"):
            with gzip.open(self._raw) as text:
                yield cast(IO[bytes], text)
        elif self.name.endswith(".xz"):
            with lzma.open(self._raw) as text:
                yield text
        else:
            yield self._raw

    def _requests(self, lines: Iterable[bytes]) -> Iterator[Request]:
        for number, line in enumerate(lines, 1):
            words = line.split()
            try:
                if len(words) == 1 and len(line) <= KEY_BYTES_MAX:  # most lines
                    yield GET, words[0], None
                elif words:
                    yield _parse(line, words)
            except InvalidArgument as error:
                raise InvalidArgument(f"{self.name}, line {number}: {error}") from None


def _parse(line: bytes, words: list[bytes]) -> Request:
    if len(line) == LINE_BYTES_MAX:
        raise InvalidArgument(f"the line is too long; {_FORMAT}")
    key, *rest = words
    if len(key) > KEY_BYTES_MAX:
        raise InvalidArgument(f"a key has at most {KEY_BYTES_MAX:,} bytes, this one {len(key):,}")
    value_bytes = int(rest.pop(0)) if rest and rest[0].isdigit() else None
    operation = _OPERATIONS.get(rest.pop(0).lower()) if rest else GET
    if rest or operation is None:
        text = line.decode(errors="replace").strip()
        raise InvalidArgument(f"{text[:60]!r} is no request; {_FORMAT}")
    return operation, key, value_bytes


@contextmanager
def opened(path: str) -> Iterator[Trace]:
    """Opens a trace; `-` is standard input. A source that cannot seek is copied to a file."""
    name = "standard input" if path == "-" else path
    with sys.stdin.buffer if path == "-" else Path(path).open("rb") as source:
        if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            yield Trace(name, source)
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(source, copy)
            yield Trace(name, copy)
