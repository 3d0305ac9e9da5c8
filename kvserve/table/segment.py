"""Segments of shared memory: made, attached, checked and unlinked."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import zlib
from pathlib import Path

import posix_ipc

from kvserve.descriptors import Descriptor
from kvserve.errors import ForeignObject, KvserveError, LimitError
from kvserve.objects import grant, taken_over
from kvserve.shortages import shared_memory_refusal

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CLOCK_SHIFTS = Path("/proc/self/timens_offsets")
_OWN_CLOCKS = Path("/proc/self/ns/time")
_CHILDRENS_CLOCKS = Path("/proc/self/ns/time_for_children")


def boot_id() -> bytes:
    """16 bytes that identify the clocks of a table's times.

    They change with every boot of the machine, which no segment survives, and the last 4 differ
    where a time namespace shifts the clocks of this process.
    """
    boot = bytes.fromhex(_read_whole(_BOOT_ID).replace("-", ""))
    return boot[:-4] + (int.from_bytes(boot[-4:]) ^ _clock_shift()).to_bytes(4)


def _clock_shift() -> int:
    """A number for the shift of the clocks that count since the boot; 0: not shifted."""
    try:
        shifts = _read_whole(_CLOCK_SHIFTS)
        if {"0"}.issuperset(word for line in shifts.splitlines() for word in line.split()[1:]):
            return 0
        # These are the shifts of our children; a process that unshares keeps its own clocks.
        if _OWN_CLOCKS.readlink() != _CHILDRENS_CLOCKS.readlink():
            return 0
    except FileNotFoundError:  # a kernel without time namespaces
        return 0
    return zlib.crc32(" ".join(shifts.split()).encode())


def _read_whole(path: Path) -> str:
    with Descriptor.open(path, os.O_RDONLY) as file:
        return os.read(file.number, 4096).decode().strip()


def create(name: str, size_bytes: int, mode: int, group_id: int | None) -> mmap.mmap:
    """Makes a segment exclusively, with all its memory taken, and maps it for writing.

    Raises:
        LimitError: the memory cannot be had; the text says which limit is in the way.
        ForeignObject: the name is taken.
    """
    try:
        with taken_over(name):
            memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=mode)
    except OSError as error:
        raise _translated(error, size_bytes) from None
    try:
        # Not ftruncate: that only promises the memory, and SIGBUS comes when it is not there.
        os.posix_fallocate(memory.fd, 0, size_bytes)
        grant(memory.fd, mode, group_id)
        return mmap.mmap(memory.fd, size_bytes)
    except OSError as error:
        memory.unlink()
        raise _translated(error, size_bytes) from None
    finally:
        memory.close_fd()


def _translated(error: OSError, size_bytes: int) -> OSError | KvserveError:
    """Our error for what the system refused; itself if it is an error of ours, or no refusal."""
    if isinstance(error, KvserveError):
        return error
    text = shared_memory_refusal(error, size_bytes)
    return error if text is None else LimitError(text)


def attach(name: str, owner_uid: int, *, writable: bool, private: bool = False) -> mmap.mmap:
    """Maps an existing segment, after checking its owner.

    Args:
        name: its name.
        owner_uid: the user who must own it.
        writable: whether to map it for writing.
        private: what is written stays in this process; a page is copied when it is changed.

    Raises:
        FileNotFoundError: there is none of this name.
        ForeignObject: another owner, open to all users, not plain memory, or not permitted.
    """
    try:
        file = Descriptor.open_memory(name, os.O_RDWR if writable and not private else os.O_RDONLY)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such shared memory", name) from None
    except PermissionError as error:
        raise ForeignObject(f"shared memory {name} cannot be opened: {error.strerror}") from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.ENXIO):
            raise
        raise _not_plain(name) from None
    with file:
        status = os.fstat(file.number)
        if not stat.S_ISREG(status.st_mode):
            raise _not_plain(name)
        if status.st_uid != owner_uid:
            raise ForeignObject(
                f"shared memory {name} belongs to uid {status.st_uid}, not {owner_uid}"
            )
        if status.st_mode & 0o007:
            raise ForeignObject(f"shared memory {name} is open to all users")
        if status.st_size == 0:
            raise ForeignObject(f"shared memory {name} is empty")
        return file.map(status.st_size, writable, private)


def unlink(name: str) -> bool:
    """Removes a segment's name; returns whether it was there."""
    with contextlib.suppress(posix_ipc.ExistentialError):
        try:
            posix_ipc.unlink_shared_memory(name)
        except IsADirectoryError:
            raise _not_plain(name) from None
        return True
    return False


def _not_plain(name: str) -> ForeignObject:
    return ForeignObject(f"/dev/shm{name} is not plain memory; remove it: rm -r /dev/shm{name}")
