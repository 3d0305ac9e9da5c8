"""The lease file: one byte for each process that may hold a shard's lock.

A classic POSIX record lock on its byte shows that a process lives: the kernel releases it at
death, whatever the cause. Pids would not do: they are used again and differ between pid
namespaces. Nor would flock or OFD locks, which a forked child inherits and so keeps alive.

The file lives as long as its table, from server to server. A trusted writer may outlive a server,
and the next one must find it alive, wherever it was inside the table.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from kvserve.descriptors import Descriptor
from kvserve.errors import ForeignObject, ServerBusy
from kvserve.limits import LEASE_SLOT_PARENT, LEASE_SLOTS
from kvserve.objects import is_from_system, unlink_file

_FLOCK = struct.Struct("hhqqi")  # struct flock: type, whence, start, length, pid


class Lease:
    """This process's byte of a lease file. One per process: closing any descriptor of the file
    drops all its locks on it. Joined after a fork, never before: locks are not inherited.

    Args:
        file: the open lease file, on whose byte `slot` this process holds the lock.
        slot: the byte.
    """

    def __init__(self, file: Descriptor, slot: int) -> None:
        self.file = file
        self.slot = slot

    @property
    def descriptor(self) -> int:
        """The open lease file."""
        return self.file.number

    @classmethod
    def join(cls, path: Path, *slots: int, owner_uid: int | None = None) -> Self:
        """Takes the first of these slots that is free.

        Args:
            path: the lease file.
            slots: one of them will do.
            owner_uid: the user who must own the file; None: this user.

        Raises:
            FileNotFoundError: there is no such file.
            ForeignObject: it is no lease file of this owner's alone.
            ServerBusy: other processes hold all of them.
        """
        file = _open(path, os.geteuid() if owner_uid is None else owner_uid)
        try:
            for slot in slots:
                if _lock(file.number, slot):
                    return cls(file, slot)
        except BaseException:
            file.close()  # now: later it would drop the lock that the next lease has got
            raise
        file.close()
        raise ServerBusy(f"lease slot {slots[0]} is held by another process")

    @classmethod
    def alone(cls) -> Self:
        """A lease of a file that no other process has: all other owners look dead."""
        return cls(Descriptor.adopt(os.memfd_create("kvserve.lease")), LEASE_SLOT_PARENT)

    def take_too(self, slot: int) -> bool:
        """Takes another slot beside its own, until `give_back`; returns whether it was free."""
        return _lock(self.descriptor, slot)

    def give_back(self, slot: int) -> None:
        """Gives back what `take_too` took."""
        fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, slot)

    def holders(self, slots: Iterable[int]) -> dict[int, int]:
        """The pids of the other processes that hold some of these slots; see `holders`."""
        return _holders(self.descriptor, slots)

    def leave(self) -> None:
        """Gives the slot back."""
        self.file.close()


def create(path: Path) -> None:
    """Makes a new lease file in place of an old one, which no process may hold any more.

    Only its owner may open it: a client that could hold a byte of it could block all processes.

    Raises:
        ForeignObject: the name is another user's.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        unlink_file(path)
        descriptor = os.open(path, flags, 0o600)
    except (PermissionError, FileExistsError):
        raise ForeignObject(f"{path} is another user's; use another --name") from None
    try:
        os.fchmod(descriptor, 0o600)  # whatever the umask was
        os.ftruncate(descriptor, LEASE_SLOTS)
    finally:
        os.close(descriptor)


def holders(path: Path, slots: Iterable[int]) -> dict[int, int]:
    """The pids of processes that hold slots of a lease file, by slot; 0: another pid namespace.

    Not for a process that has a lease of the file itself: it would lose that.

    Raises:
        FileNotFoundError: there is no such file.
        ForeignObject: it is no lease file of this user's alone.
    """
    with _open(path, os.geteuid()) as file:
        return _holders(file.number, slots)


def _open(path: Path, owner_uid: int) -> Descriptor:
    try:
        file = Descriptor.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        if not is_from_system(error):
            raise
        raise ForeignObject(f"{path} cannot be used: {error.strerror}") from None
    status = os.fstat(file.number)
    if stat.S_ISREG(status.st_mode) and status.st_uid == owner_uid and not status.st_mode & 0o077:
        return file
    file.close()
    raise ForeignObject(f"{path} is no lease file of its owner's alone; remove it")


def _lock(descriptor: int, slot: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _holders(descriptor: int, slots: Iterable[int]) -> dict[int, int]:
    found = {}
    for slot in slots:
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, slot, 1, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, question)
        kind, _, _, _, pid = _FLOCK.unpack(answer)
        if kind != fcntl.F_UNLCK:
            found[slot] = max(pid, 0)
    return found
