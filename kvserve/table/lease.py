"""The lease file: one byte for each process that may hold a shard's lock.

A classic POSIX record lock on its byte tells that a process lives: the kernel releases it at
death, whatever the cause. Pids would not do, they are used again and differ between pid
namespaces; nor would flock or OFD locks, which a forked child inherits and so keeps alive.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Self

from kvserve.errors import ServerBusy
from kvserve.limits import LEASE_SLOT_PARENT, LEASE_SLOTS


class Lease:
    """This process's byte of a lease file. One of a process: closing any descriptor of the file
    drops all its locks on it. Joined after a fork, never before: locks are not inherited.

    Args:
        descriptor: the open lease file, on whose byte `slot` this process holds the lock.
        slot: the byte.
    """

    def __init__(self, descriptor: int, slot: int) -> None:
        self.descriptor = descriptor
        self.slot = slot

    @classmethod
    def join(cls, path: Path, slot: int) -> Self:
        """Takes a slot.

        Raises:
            ServerBusy: another process holds it.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise ServerBusy(f"lease slot {slot} is held by another process") from None
            raise
        return cls(descriptor, slot)

    @classmethod
    def alone(cls) -> Self:
        """A lease of a file that nobody else has: all other owners look dead."""
        return cls(os.memfd_create("kvserve.lease"), LEASE_SLOT_PARENT)

    def leave(self) -> None:
        """Gives the slot back."""
        os.close(self.descriptor)


def create(path: Path, mode: int, group_id: int | None) -> None:
    """Makes a new lease file in place of an old one, which nobody must hold any more."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        if group_id is not None:
            os.fchown(descriptor, -1, group_id)
        os.fchmod(descriptor, mode)
        os.ftruncate(descriptor, LEASE_SLOTS)
    finally:
        os.close(descriptor)
