"""The change feed's segment: the parent makes and removes it, writers of the table write to it.

It never outlives its server: the events of a former server are over, and its watchers must learn
that they missed whatever happened in between.
"""

from __future__ import annotations

import mmap
import os

from kvserve.errors import ConfigError, ForeignObject, LimitError
from kvserve.names import Names
from kvserve.table import segment
from kvserve.table._core import FEED_CAPACITY_MIN, Writer, feed_bytes, format_feed, retire_feed

_LINE_BYTES = 64  # a ring's size is a multiple of this


def ring_capacity(feed_size: int) -> int:
    """How many bytes of events a ring of this size holds.

    Raises:
        ConfigError: it is too small for the longest events.

    Example:
        >>> ring_capacity(100_000)
        99968
    """
    if feed_size < FEED_CAPACITY_MIN:
        raise ConfigError(
            f"feed_size = {feed_size}: use {FEED_CAPACITY_MIN} or more, or 0 for none"
        )
    return feed_size // _LINE_BYTES * _LINE_BYTES


def size_bytes(rings: int, feed_size: int) -> int:
    """The size of the whole segment.

    Example:
        >>> size_bytes(rings=2, feed_size=4096)
        12544
    """
    return feed_bytes(rings, ring_capacity(feed_size))


def create(names: Names, rings: int, feed_size: int, mode: int, group_id: int | None) -> None:
    """Makes the feed of a server that starts; the former server's must be removed first.

    Args:
        names: the instance's.
        rings: how many: one for each worker, then one for each trusted writer.
        feed_size: bytes of each ring.
        mode: permission bits, such as 0o600. A group never gets to write, whatever they are.
        group_id: the group that may read, beside the owner; None for no group.

    Raises:
        ConfigError: the rings would be too small.
        LimitError: no room in /dev/shm.
        ForeignObject: the name is taken.
    """
    capacity = ring_capacity(feed_size)
    try:
        memory = segment.create(names.feed, feed_bytes(rings, capacity), mode & ~0o020, group_id)
    except LimitError as error:
        raise LimitError(f"the change feed does not fit: {error}; or lower --feed-size") from None
    with memory:
        format_feed(memory, rings, capacity)


def attach(names: Names, owner_uid: int, *, writable: bool = False) -> mmap.mmap:
    """Maps the feed, after checking its owner.

    Raises:
        FileNotFoundError: there is none.
        ForeignObject: it is not plain memory that only this owner may write.
    """
    return segment.attach(names.feed, owner_uid, writable=writable)


def produce(names: Names, table: Writer, ring: int) -> None:
    """Makes a worker's table write its changes to the feed, until the table is closed.

    Args:
        names: the instance's.
        table: the worker's.
        ring: the worker's ring.

    Raises:
        FileNotFoundError: there is no feed.
        ForeignObject: it is not ours, or not whole.
    """
    # Never closed here: the table holds it as long as it writes there.
    table._attach_feed(attach(names, os.geteuid(), writable=True), ring)


def remove(names: Names) -> list[str]:
    """Retires the feed, so that its watchers look for the next one, and unlinks it.

    Returns:
        The names that were there.
    """
    try:
        with attach(names, os.geteuid(), writable=True) as memory:
            retire_feed(memory)
    except (FileNotFoundError, ForeignObject):
        pass  # then no process is attached to it, or it is not ours
    return [names.feed] if segment.unlink(names.feed) else []
