"""The Python face of the table: create it, find a kept one, attach, remove."""

from __future__ import annotations

import mmap
import os
import random
import secrets
import time
from contextlib import suppress
from typing import Any

from kvserve import limits
from kvserve.errors import ForeignObject
from kvserve.names import Names
from kvserve.objects import unlink_file
from kvserve.table import lease, segment, semaphores
from kvserve.table._core import Writer, format_segment, last_version, retire_segment
from kvserve.table.geometry import Geometry, as_fields
from kvserve.table.lease import Lease

_ID_BYTES = 16
_HASH_KEY_BYTES = 32
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of Linux 5.14, which Python's mmap does not name


class Table(Writer):
    """A table opened for writing: raw payloads, codecs' numbers, whole milliseconds.

    One for each process, since it holds that process's lease. Values go through
    `kvserve.protocol.codec`; requests through `kvserve.execution.executor`.

    Args:
        names: the table's.
        held: this process's slot of the lease file.

    Raises:
        FileNotFoundError: there is no table of this name.
        ForeignObject: it belongs to another user, or is not whole.
        ServerUnavailable: its semaphores are gone.
    """

    def __init__(self, names: Names, held: Lease) -> None:
        self._lease = held
        self._maps = attach_maps(self, names, os.geteuid())
        every = [names.shard_semaphore(shard) for shard in range(self.shards)]
        self._join(held.file, held.slot, every)

    def _join_alone(self) -> None:
        """Treats the locks' other owners as dead; the table's semaphores may be gone with them."""
        self._lease = Lease.alone()
        with semaphores.nameless() as name:  # on which no process ever waits
            self._join(self._lease.file, self._lease.slot, [name] * self.shards)

    @property
    def lease(self) -> Lease:
        """This process's slot of the lease file."""
        return self._lease

    @property
    def shards(self) -> int:
        """How many shards it has."""
        return self.geometry()["shards"]

    def touch_memory(self, first: int, size_bytes: int) -> bool:
        """Has the kernel make the pages of a piece of both segments now, not when a write comes.

        Where pages come one by one, each costs that write some 7 us (on a virtual machine); in a
        row, 1 us.

        Args:
            first: where the piece begins, a multiple of the page size.
            size_bytes: how long it is.

        Returns:
            Whether there is more behind it.
        """
        try:
            for memory in self._maps:
                if first < len(memory):
                    memory.madvise(_POPULATE_WRITE, first, min(size_bytes, len(memory) - first))
        except OSError:  # an older kernel
            return False
        return any(first + size_bytes < len(memory) for memory in self._maps)

    def close(self) -> None:
        """Lets go of the table and of its lease."""
        if self._maps:
            self._leave()
            for memory in self._maps:
                memory.close()
            self._maps = ()
            self._lease.leave()


class PrivateCopy(Table):
    """A copy of a table that no server uses, to recover and verify without changing the table.

    It costs memory only for the pages that are changed. Raises as `Table` does.
    """

    def __init__(self, names: Names) -> None:
        self._maps = attach_maps(self, names, os.geteuid(), private=True)
        self._join_alone()


class PrivateTable(Table):
    """An empty table in memory of this process alone, which is given back when it is closed.

    A key lies at the same place in all tables of one geometry, so that what was done to one table
    can be repeated. Memory is taken page by page, as it is used.
    """

    def __init__(self, geometry: Geometry) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, geometry.table_bytes, flags=flags)
        hints = mmap.mmap(-1, geometry.hints_bytes, flags=flags)
        boot = segment.boot_id()
        fields = as_fields(geometry)
        seed = random.Random(0)  # a hash key of zeros would mix badly
        instance_id, hash_key = seed.randbytes(_ID_BYTES), seed.randbytes(_HASH_KEY_BYTES)
        format_segment(memory, fields, boot, instance_id, hash_key)
        self._attach(memory, hints, boot)
        self._maps = (memory, hints)
        self._join_alone()


def attach_maps(
    writer: Writer, names: Names, owner_uid: int, *, private: bool = False
) -> tuple[mmap.mmap, ...]:
    """Maps both segments of an owner's table for a writer, which reads from them from now on.

    Raises:
        FileNotFoundError: there is no table of this name.
        ForeignObject: it belongs to another user, or is not whole.
    """
    maps = []
    try:
        for name in (names.table, names.hints):
            maps.append(segment.attach(name, owner_uid, writable=True, private=private))
        writer._attach(maps[0], maps[1], segment.boot_id())
    except BaseException:
        for memory in maps:
            with suppress(BufferError):  # the writer has it until it is gone
                memory.close()
        raise
    return tuple(maps)


def versions_so_far(names: Names) -> int:
    """The highest version that the table of this name may have given out; 0 if it cannot be read.

    The table need not be sound, nor in use. A writer of a killed server may still work in it.
    """
    try:
        with segment.attach(names.table, os.geteuid(), writable=False) as table:
            last = last_version(table)
    except (FileNotFoundError, ForeignObject):
        return 0
    return last + limits.VERSIONS_UNSEEN if last else 0


def create(
    names: Names, geometry: Geometry, mode: int, group_id: int | None, so_far: int = 0
) -> None:
    """Makes an empty table, its hints and its lease file.

    Args:
        names: the table's.
        geometry: from `kvserve.table.geometry.plan`.
        mode: permission bits, such as 0o600. The group may never write, whatever they say.
        group_id: the group that may read, beside the owner; None: no group.
        so_far: the highest version of the table before it, see `versions_so_far`.

    Raises:
        LimitError: no room in /dev/shm.
        ForeignObject: a name is taken.
    """
    mode &= ~0o020
    hints = segment.create(names.hints, geometry.hints_bytes, mode, group_id)
    try:
        table = segment.create(names.table, geometry.table_bytes, mode, group_id)
        lease.create(names.lease_file)
    except BaseException:
        segment.unlink(names.hints)
        segment.unlink(names.table)
        raise
    with hints, table:
        format_segment(
            table,
            as_fields(geometry),
            segment.boot_id(),
            secrets.token_bytes(_ID_BYTES),
            secrets.token_bytes(_HASH_KEY_BYTES),
            _versions_from(so_far),
        )


def _versions_from(so_far: int) -> int:
    """Where a new table's versions begin: above those of any table before it.

    So a version that a client keeps while the table is replaced is no version of another record
    (cas would overwrite what it never saw), and of two versions of a key the later is the larger.
    If that table is gone, only the time shows where its versions ended.
    """
    by_the_clock = time.time_ns() // 1_000_000 * limits.VERSIONS_A_MILLISECOND
    return min(max(by_the_clock, so_far), limits.VERSION_FIRST_MAX)


def kept(names: Names) -> Geometry:
    """The geometry of the table that a former server left.

    Raises:
        FileNotFoundError: there is none, or it has lost a part.
        ForeignObject: there is one that cannot be adopted; the text says why.
    """
    lease.holders(names.lease_file, ())  # without it no process knows which are in the table
    writer = Writer()
    maps = attach_maps(writer, names, os.geteuid())
    try:
        fields: dict[str, Any] = writer._geometry()
        return Geometry(**fields)
    finally:
        writer._detach()
        for memory in maps:
            memory.close()


def remove(names: Names) -> list[str]:
    """Retires the table, so that attached clients let go of it, and unlinks all parts of it.

    Returns:
        The names that were there.
    """
    try:
        table = segment.attach(names.table, os.geteuid(), writable=True)
    except (FileNotFoundError, ForeignObject):
        pass  # no client can be attached to it either, or it is not ours
    else:
        with table:
            retire_segment(table)
    removed = [name for name in (names.table, names.hints) if segment.unlink(name)]
    if unlink_file(names.lease_file):
        removed.append(str(names.lease_file))
    return removed
