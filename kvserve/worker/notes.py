"""Applies the notes that readers of other users write to their files, see `kvserve.client.notes`.

A member of the group may put anything into the clients directory and into such a file. A worker
does not map it, wait for it or follow it; what it reads there raises hints and counts reads and
does nothing else; and a look takes its share of a worker's time, however many files there are.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

from kvserve import limits
from kvserve.names import Names, parse_notes_file
from kvserve.table._core import LAYOUT
from kvserve.table.table import Table

_NOTES_BYTES = LAYOUT["notes_bytes"]
_HEADER_BYTES = LAYOUT["hints_header_bytes"]  # of notes, too
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FLOCK = struct.Struct("hhqqi")  # struct flock: type, whence, start, length, pid
_IS_WRITTEN = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)  # is it locked for writing?

Seen = tuple[int, int, int]  # as `Writer.heed_notes` returns


class NotesOfOthers:
    """The notes that one worker looks after: each file is read by one worker alone.

    Args:
        names: the instance's.
        table: this process's.
        index: which worker this is.
        workers: how many there are.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        names: Names,
        table: Table,
        index: int,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = names
        self._table = table
        self._index = index
        self._workers = workers
        self._clock = clock
        self._known: dict[int, tuple[bytes, Seen]] = {}  # by reader: header, and what it said
        self._met: set[int] = set()  # in this round
        self._round: Iterator[None] | None = None
        # The worker before this one counted what lies there already.
        self._older = set(islice(self._readers(), limits.NOTES_OLDER_FILES_MAX)) - {None}

    def turn(self) -> None:
        """Looks at some files, from where the last turn ended; called every `TICK_SECONDS`."""
        give_way = self._clock() + limits.NOTES_STEP_SECONDS
        if self._round is None:
            self._round = self._look_round()
        for _ in self._round:
            if self._clock() >= give_way:
                return
        self._round = None
        self._known = {reader: self._known[reader] for reader in self._met & self._known.keys()}
        self._met.clear()

    def _look_round(self) -> Iterator[None]:
        """Looks at one file after the other."""
        for reader in self._readers():
            if reader is not None:
                with suppress(OSError):  # gone again, or not to be read
                    self._look(reader)
            yield

    def _readers(self) -> Iterator[int | None]:
        """The ids of this worker's readers; None for each other name of the directory."""
        with suppress(OSError), os.scandir(self._names.clients_directory) as entries:
            for entry in entries:
                reader = parse_notes_file(entry.name)
                is_ours = reader is not None and reader % self._workers == self._index
                yield reader if is_ours else None

    def _look(self, reader: int) -> None:
        # By a descriptor that can do nothing: the name may be a hard link to our own lease file,
        # and opening and closing that would drop this worker's record lock.
        found = os.open(self._names.notes_file(reader), os.O_PATH | _FLAGS)
        try:
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                return
            descriptor = os.open(f"/proc/self/fd/{found}", _FLAGS & ~os.O_NOFOLLOW)
        finally:
            os.close(found)
        try:
            is_alive = _is_alive(descriptor)
            if status.st_size == _NOTES_BYTES:
                self._heed(reader, descriptor)
                is_over = not is_alive
            else:  # just made, or no notes
                is_over = not is_alive and time.time() - status.st_ctime > limits.NOTES_AGE_SECONDS
        finally:
            os.close(descriptor)
        if is_over:
            self._names.notes_file(reader).unlink(missing_ok=True)
            self._met.discard(reader)

    def _heed(self, reader: int, descriptor: int) -> None:
        if len(self._met) >= limits.NOTES_FILES_MAX:
            return
        self._met.add(reader)
        header = os.pread(descriptor, _HEADER_BYTES, 0)
        last_header, last = self._known.get(reader, (b"", (0, 0, 0)))
        if header == last_header:
            return
        notes = os.pread(descriptor, _NOTES_BYTES, 0)
        seen = self._table.heed_notes(notes, last, only_look=reader in self._older)
        self._older.discard(reader)
        self._known[reader] = header, seen


def _is_alive(descriptor: int) -> bool:
    """Whether the file's writer lives. A process that may only read the file cannot pass for it."""
    kind, *_ = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, _IS_WRITTEN))
    return bool(kind != fcntl.F_UNLCK)
