"""A small file that shows the workers what a client of another user than the server's has read.

Readers of the server's own user write the hints, from which the eviction knows what is read. Other
users may not: a user that may write a file may shorten it, and that kills every process that has
mapped it. So such a client maps a file of its own, which it alone may write and which workers read
without mapping it. It lies in the clients directory until a worker has read its end, or the server
stops.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress

from kvserve.names import Names
from kvserve.table._core import LAYOUT

NOTES_BYTES = LAYOUT["notes_bytes"]
_MODE = 0o640  # the server's user reads it as a member of the group


class Notes:
    """One client's file of notes, or memory of its own where no file can be had.

    The record lock on it shows that the client lives: the kernel releases it when the client dies.

    Args:
        names: the instance's.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._descriptor = -1
        self._identity: tuple[int, int] | None = None
        self.memory = self._make()

    @property
    def is_lost(self) -> bool:
        """Whether no worker will read what is noted here: the file has no name any more."""
        status = self._status()
        return status is None or status.st_nlink == 0

    def renew(self) -> mmap.mmap:
        """Makes another file in place of a lost one; returns the memory of the one before."""
        before = self.memory
        self.close()
        self.memory = self._make()
        return before

    def close(self) -> None:
        """Lets go of the file, not of the memory. A worker takes what is in it, and removes it."""
        if self._status() is not None:
            os.close(self._descriptor)
        self._identity = None

    def _status(self) -> os.stat_result | None:
        """The status of our file, if the descriptor is still ours: a program may have closed it."""
        if self._identity is None:
            return None
        try:
            status = os.fstat(self._descriptor)
        except OSError:
            return None
        return status if (status.st_dev, status.st_ino) == self._identity else None

    def _make(self) -> mmap.mmap:
        import secrets  # not above: few need it, and `kvserve get` has no time for it

        path = self._names.notes_file(secrets.randbits(64))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(OSError):
            descriptor = os.open(path, flags, _MODE)
            try:
                # In this order: a file of full length without a lock counts as a dead client's.
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.fchmod(descriptor, _MODE)  # whatever the umask was
                os.posix_fallocate(descriptor, 0, NOTES_BYTES)
                memory = mmap.mmap(descriptor, NOTES_BYTES)
            except BaseException:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                raise
            status = os.fstat(descriptor)
            self._descriptor, self._identity = descriptor, (status.st_dev, status.st_ino)
            return memory
        return mmap.mmap(-1, NOTES_BYTES)  # no room, or no directory: the reads are not reported
