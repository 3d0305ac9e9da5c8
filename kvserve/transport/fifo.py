"""FIFOs: replies, and requests too large for a queue, as a stream of frames.

The client makes both FIFOs of a session. A closed end shows the other side that its peer is gone:
the client reads end-of-file when its worker is gone, the worker when its client is. That works
because each side opens its reading end without a writing end of its own; the one exception, the
client's request FIFO, must be open before the worker reads it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections import deque
from pathlib import Path

from kvserve.descriptors import Descriptor, MadeFifo
from kvserve.errors import ForeignObject
from kvserve.objects import is_from_system
from kvserve.protocol.framing import FrameReader, frame_to_stream

# As much as a FIFO holds; Python makes room for all of it before it knows how much there is, and
# from 128 KiB on that is a mapping of its own, which costs 8 us a read.
_READ_BYTES = 64 * 1024
_FIFO_BYTES = 64 * 1024
_WIDE_BYTES = 256 * 1024
_HOLDING_BYTES = 64  # what Python adds to a frame that is held: most replies are shorter than that


def make(path: Path, mode: int, group_id: int | None) -> MadeFifo:
    """Makes a FIFO, whose name is removed with the object returned; the path must be free."""
    return MadeFifo(path, mode, group_id)


def open_end(path: Path, flags: int, *, owner_uid: int | None, group_id: int | None) -> Descriptor:
    """Opens an existing FIFO without waiting for its other end.

    Args:
        path: where it is.
        flags: os.O_RDONLY, O_WRONLY or O_RDWR.
        owner_uid: the user that must own it; None with a group whose members all may.
        group_id: the group that it may have.

    Raises:
        FileNotFoundError: there is none.
        OSError: ENXIO: no process reads what we wanted to write.
        ForeignObject: it is no FIFO, or not theirs.
    """
    try:
        file = Descriptor.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EACCES, errno.EISDIR):
            raise ForeignObject(f"{path} is not a FIFO of ours: {error.strerror}") from None
        raise
    status = os.fstat(file.number)
    allowed = status.st_uid == owner_uid or (group_id is not None and status.st_gid == group_id)
    if not stat.S_ISFIFO(status.st_mode) or not allowed or status.st_mode & 0o007:
        file.close()
        raise ForeignObject(f"{path} is not a FIFO of the allowed user or group")
    return file


class FifoSender:
    """Writes frames to a FIFO, holding back what it does not take yet.

    Args:
        file: the open FIFO, which this closes in the end.
        held_bytes_max: what may be held back before `offer` refuses.
    """

    def __init__(self, file: Descriptor, held_bytes_max: int) -> None:
        self.file = file
        self._held: deque[bytes] = deque()
        self._written_bytes = 0  # of the first
        self._is_wide = False
        self.held_bytes = 0  # the memory of frames that are not wholly written yet
        self.written_bytes = 0  # by `flush`, ever
        self._held_bytes_max = held_bytes_max

    @property
    def descriptor(self) -> int:
        return self.file.number

    def offer(self, frame: bytes, priority: int = 0) -> bool:  # noqa: ARG002 - the contract's
        """Takes the frame, to be written at once or by `flush`; False if too much is held back.

        A frame once taken is written whole or never completed: its reader can't lose its place.
        """
        if self.held_bytes > self._held_bytes_max:
            return False
        stream = frame_to_stream(frame)
        if not self._held:
            if len(stream) > _FIFO_BYTES and not self._is_wide:
                self._widen()
            try:
                self._written_bytes = os.write(self.file.number, stream)
            except BlockingIOError:
                self._written_bytes = 0
            if self._written_bytes == len(stream):
                self._written_bytes = 0
                return True
        self._held.append(stream)
        self.held_bytes += len(stream) + _HOLDING_BYTES
        return True

    def _widen(self) -> None:
        """Makes room in the FIFO, so that a long frame does not come in many small pieces.

        Not for all FIFOs: a user's pipes have 64 MiB together (pipe-user-pages-soft), and beyond
        that they are tiny.
        """
        self._is_wide = True
        try:
            fcntl.fcntl(self.file.number, fcntl.F_SETPIPE_SZ, _WIDE_BYTES)
        except OSError as error:
            if not is_from_system(error):
                raise

    def flush(self) -> bool:
        """Writes what the FIFO takes; returns whether nothing is held back any more.

        Raises:
            BrokenPipeError: no process will read it.
        """
        while self._held:
            first = self._held[0]
            rest = memoryview(first)[self._written_bytes :] if self._written_bytes else first
            try:
                written = os.write(self.file.number, rest)
            except BlockingIOError:
                return False
            self._written_bytes += written
            self.written_bytes += written
            if self._written_bytes == len(first):
                self._written_bytes = 0
                self.held_bytes -= len(first) + _HOLDING_BYTES
                self._held.popleft()
        return True

    @property
    def drained(self) -> bool:
        """Whether everything taken has been written."""
        return not self._held

    def close(self) -> None:
        self.file.close()
        self._held.clear()
        self.held_bytes = 0


class FifoReceiver:
    """Reads frames from a FIFO.

    Args:
        file: the open FIFO, which this closes in the end.
        frame_bytes_max: see FrameReader.
    """

    def __init__(self, file: Descriptor, frame_bytes_max: int) -> None:
        self.file = file
        self._frames = FrameReader(frame_bytes_max)

    @property
    def descriptor(self) -> int:
        """What to poll for reading."""
        return self.file.number

    def receive(self, *, sparingly: bool = False) -> list[bytes] | None:
        """The frames that are complete by now; None if the writers are gone.

        Args:
            sparingly: read no further than to the next frame's length, or to its end.

        Raises:
            ProtocolError: a frame is too long.
        """
        size_bytes = min(self._frames.missing_bytes, _READ_BYTES) if sparingly else _READ_BYTES
        try:
            data = os.read(self.file.number, size_bytes)
        except BlockingIOError:
            return []
        return self._frames.feed(data) if data else None

    @property
    def arrived_bytes(self) -> int:
        """How much of that frame, or of its length, has come."""
        return self._frames.buffered_bytes

    @property
    def arriving_bytes(self) -> int:
        """The memory that the arriving frame will take; 0 if its length has not come."""
        return self._frames.arriving_bytes

    def close(self) -> None:
        self.file.close()


def remove(path: Path) -> None:
    """Removes a FIFO's name, if it is there and no directory has taken its place."""
    with contextlib.suppress(OSError):
        path.unlink()
