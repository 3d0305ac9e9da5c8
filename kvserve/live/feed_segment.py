"""The change feed's segment: made and removed by the parent, written by those who change the table.

It never outlives its server: what a former one told of is over, and its watchers must learn that
they missed whatever happened between.
"""

from __future__ import annotations

import mmap
import os

from kvserve.errors import ConfigError, ForeignObject, LimitError
from kvserve.names import Names
from kvserve.table import segment
from kvserve.table._core import FEED_CAPACITY_MIN, Writer, feed_bytes, format_feed, retire_feed

_LINE_BYTES = 64  # what a ring's size is a multiple of


def ring_capacity(feed_size: int) -> int:
    """The bytes of events in a ring of this size.

    Raises:
        ConfigError: too small for the longest events.

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
    """Makes the feed of a server that starts; remove the former one's first.

    Args:
        names: whose.
        rings: one for each worker, then one for each trusted writer.
        feed_size: bytes a ring.
        mode: permission bits, such as 0o600. A group never gets to write, whatever they say.
        group_id: who may read, beside the owner; None: nobody.

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
    """Maps the feed, after checking whose it is.

    Raises:
        FileNotFoundError: there is none.
        ForeignObject: it is not plain memory of this owner's alone.
    """
    return segment.attach(names.feed, owner_uid, writable=writable)


def produce(names: Names, table: Writer, ring: int) -> None:
    """Lets a worker's table tell of its changes, until it is closed.

    Args:
        names: whose feed.
        table: the worker's.
        ring: its number.

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
        pass  # nobody can be attached to it either, or it is not ours to say
    return [names.feed] if segment.unlink(names.feed) else []
