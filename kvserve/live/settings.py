"""The page of live settings: the parent makes it, its owner writes it, all processes poll it.

It knows how settings are passed on, not what they mean. Two pages of shared memory; the first is
written once, except for the version:

       0  magic    8 bytes, the layout's version among them
       8  version  u64, which settings are in force; slot `version % 2` holds them
      64  the server and its runtime directory: see kvserve.whereabouts
    4096  slot 0   2048 bytes
    6144  slot 1   2048 bytes

    a slot: version u64, length u32, CRC-32 of these two and the map u32, the map in msgpack

A writer fills the slot that is not in force and then publishes it by one store of the version. If
it is killed before that store, no reader ever looks at what it wrote, and the next writer
overwrites it. A flock on a file keeps two writers apart; the kernel frees it when its holder dies.

A reader loads the version, copies that slot, and loads the version again. Writers can touch the
slot meanwhile only after publishing once more, which the second load shows. Nothing depends on
the order in which a processor carries out loads and stores (x86 keeps it, ARM need not), nor on
the version being stored in one piece (CPython copies a memoryview's item by a memcpy of 8 bytes,
which compilers make one store): the checksum covers the version, so a copy that is partial or
too early does not match, and the reader tries again.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgpack

from kvserve.errors import ForeignObject, InternalError, ServerBusy, ServerUnavailable
from kvserve.names import Names
from kvserve.objects import taken_over, unlink_file
from kvserve.table import segment
from kvserve.whereabouts import RECORD_AT, record

PAGE_BYTES = 8192
LOCK_SECONDS = 2.0  # a writer holds the lock for far less than a millisecond
_LOCK_RETRY_SECONDS = 0.01
_MAGIC = b"kvset\0\0\1"
VERSION_AT = 8
_SLOTS_AT = 4096
_SLOT_BYTES = (PAGE_BYTES - _SLOTS_AT) // 2
_VERSION_AND_LENGTH = struct.Struct("=QI")
_CHECKSUM = struct.Struct("=I")
_HEADER_BYTES = _VERSION_AND_LENGTH.size + _CHECKSUM.size
_RETIRED = 2**64 - 1  # the version of a page whose server has ended; nothing follows it
_PATHS = "surrogateescape"  # as Python represents file names that are not UTF-8
_READS_MAX = 100  # a read is repeated only if a writer published meanwhile

Value = str | int | float | bool


class Snapshot(NamedTuple):
    """All settings as they were in force together.

    Args:
        version: 1 of those that the server started with, one more with each change.
        values: by name.
    """

    version: int
    values: dict[str, Value]


class SettingsPage:
    """The page, mapped read-only; made by `attach`.

    Args:
        memory: the mapped page; closed with this.

    Raises:
        ForeignObject: it is no page of ours.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        if len(memory) != PAGE_BYTES or memory[: len(_MAGIC)] != _MAGIC:
            memory.close()
            raise ForeignObject(
                "the settings page is of another version of kvserve; restart the server"
            )
        self._memory = memory
        self._version = memoryview(memory)[VERSION_AT : VERSION_AT + 8].cast("Q")

    @property
    def version(self) -> int:
        """Which settings are in force: one load from memory, cheap enough to poll."""
        return self._version[0]

    @property
    def is_retired(self) -> bool:
        """Whether its server has ended, or another one has begun."""
        return self.version == _RETIRED

    @property
    def memory(self) -> mmap.mmap:
        """The page itself: a trusted writer loads the version, at VERSION_AT, before each write."""
        return self._memory

    def read(self) -> Snapshot:
        """The settings in force.

        Raises:
            ServerUnavailable: its server has ended.
            ForeignObject: the page was overwritten with something else.
        """
        for _ in range(_READS_MAX):
            version = self.version
            if version == _RETIRED:
                raise ServerUnavailable("the server has just ended, or another one has begun")
            start = _slot_at(version)
            slot = self._memory[start : start + _SLOT_BYTES]
            if self.version == version and (values := _parse(slot, version)) is not None:
                return Snapshot(version, values)
        raise ForeignObject("the settings page is damaged; restart the server")

    def close(self) -> None:
        """Closes the page."""
        self._version.release()
        self._memory.close()


class SettingsWriter(SettingsPage):
    """The page, mapped for writing, while no other process writes; made by `writing`."""

    def publish(self, values: Mapping[str, Value]) -> int:
        """Puts settings in force, all of them at once; returns their version."""
        version = self.version + 1
        self._fill(version, values)
        self._version[0] = version
        return version

    def retire(self) -> None:
        """Shows the trusted writers that this server has ended."""
        self._version[0] = _RETIRED

    def _fill(self, version: int, values: Mapping[str, Value]) -> None:
        payload = msgpack.packb(dict(values), unicode_errors=_PATHS)
        if len(payload) > _SLOT_BYTES - _HEADER_BYTES:
            raise InternalError(f"settings of {len(payload)} bytes do not fit into their page")
        head = _VERSION_AND_LENGTH.pack(version, len(payload))
        slot = head + _CHECKSUM.pack(zlib.crc32(head + payload)) + payload
        start = _slot_at(version)
        self._memory[start : start + len(slot)] = slot


def create(names: Names, values: Mapping[str, Value], group_id: int | None) -> None:
    """Makes the page with its first settings. A former page must be removed first.

    Args:
        names: the instance's.
        values: by name.
        group_id: the group that may read it beside its owner; None for no group.

    Raises:
        ForeignObject: the name is taken.
        LimitError: no room in /dev/shm.
    """
    mode = 0o600 if group_id is None else 0o640
    memory = segment.create(names.settings, PAGE_BYTES, mode, group_id)
    memory[: len(_MAGIC)] = _MAGIC
    told = record(names)
    memory[RECORD_AT : RECORD_AT + len(told)] = told
    with closing(SettingsWriter(memory)) as writer:
        writer.publish(values)


def attach(names: Names, owner_uid: int) -> SettingsPage:
    """Maps the page read-only.

    Raises:
        FileNotFoundError: there is none.
        ForeignObject: it is another user's, open to all users, or no page of ours.
    """
    return SettingsPage(segment.attach(names.settings, owner_uid, writable=False))


@contextmanager
def writing(names: Names, wait_seconds: float = LOCK_SECONDS) -> Iterator[SettingsWriter]:
    """The page for a block of code in which no other process changes it.

    Args:
        names: the instance's; the page must be this user's.
        wait_seconds: how long to wait for another writer.

    Raises:
        FileNotFoundError: there is no page.
        ForeignObject: it is another user's, open to all users, or no page of ours.
        ServerBusy: another process kept the lock.

    Example:
        >>> with writing(names) as page:  # doctest: +SKIP
        ...     page.publish(page.read().values | {"spin": 0})
        2
    """
    memory = segment.attach(names.settings, os.geteuid(), writable=True)
    with closing(SettingsWriter(memory)) as writer, _locked(names.settings_lock, wait_seconds):
        yield writer


def remove(names: Names) -> list[str]:
    """Retires the page, then unlinks it and its lock; returns the names of what was there."""
    removed = []
    with suppress(FileNotFoundError, ForeignObject):  # no process follows it, or it is not ours
        memory = segment.attach(names.settings, os.geteuid(), writable=True)
        with closing(SettingsWriter(memory)) as page:
            page.retire()
    with taken_over(names.settings):
        if segment.unlink(names.settings):
            removed.append(names.settings)
    if unlink_file(names.settings_lock):
        removed.append(str(names.settings_lock))
    return removed


def _slot_at(version: int) -> int:
    return _SLOTS_AT + version % 2 * _SLOT_BYTES


def _parse(slot: bytes, version: int) -> dict[str, Value] | None:
    """The map in a slot; None if it is incomplete, or of another version."""
    found_version, length = _VERSION_AND_LENGTH.unpack_from(slot)
    (checksum,) = _CHECKSUM.unpack_from(slot, _VERSION_AND_LENGTH.size)
    payload = slot[_HEADER_BYTES : _HEADER_BYTES + length]
    if found_version != version or len(payload) != length:
        return None
    if zlib.crc32(slot[: _VERSION_AND_LENGTH.size] + payload) != checksum:
        return None
    try:
        values = msgpack.unpackb(payload, unicode_errors=_PATHS)
    except (ValueError, msgpack.UnpackException):
        return None
    return values if isinstance(values, dict) else None


@contextmanager
def _locked(path: Path, wait_seconds: float) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    # For its owner alone: a process that can open it can keep all writers out.
    descriptor = os.open(path, flags, 0o600)
    give_up = time.monotonic() + wait_seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    raise ServerBusy(
                        f"another process is changing the settings; see which: fuser {path}"
                    ) from None
            time.sleep(_LOCK_RETRY_SECONDS)
        yield
    finally:
        os.close(descriptor)
