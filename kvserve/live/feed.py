"""Reads the change feed: all rings as one stream of events, which outlives the server.

Nothing here waits. A watcher that has read all looks again a little later: the producers do not
know of it, so they cannot wake it.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from kvserve.errors import InvalidArgument
from kvserve.live.ordering import InOrder
from kvserve.table._core import FeedReader, feed_rings

Key = str | bytes
Since = Literal["now", "oldest"]
Find = Callable[[], mmap.mmap | None]

_BATCH_EVENTS = 1024
_BATCHES_MAX = 64  # of one ring before the others' turn: more than the default ring holds
PAUSE_SECONDS_MIN = 0.001  # how soon a watcher looks again after it saw something
PAUSE_SECONDS_MAX = 0.02  # and when nothing has happened for a while
FIND_SECONDS = 0.1  # how often it looks for a server


class Event(NamedTuple):
    """A change of the cache, or the news that some were missed.

    Args:
        kind: `set` (add, replace, cas and incr, too), `touch`, `delete`, `expire` (the server
            found it expired, up to 10 s later), `evict` (room was needed), `flush` (of a
            worker's part of the cache: a flush of all is one event or several), or `lost`.
        key: str or bytes, as it was stored; None for a `flush` or `lost`.
        version: as `gets` returns it, the last one of a key that is gone; None for a `flush` or
            `lost`.
        time: Unix time in seconds.
        lost: for a `lost`, how many events were overwritten before they were read, whatever their
            keys; 0 if some may never have been written, because a worker or a trusted writer was
            killed or the server started anew. 0 for any other kind.

    Example:
        >>> Event("set", "user:1", 7, 1700000000.0).key
        'user:1'
    """

    kind: str
    key: Key | None
    version: int | None
    time: float
    lost: int = 0


class Pace:
    """How long to wait before looking again: twice as long after each look that found nothing.

    Example:
        >>> pace = Pace()
        >>> pace.after(0), pace.after(0), pace.after(5), pace.after(0)
        (0.001, 0.002, 0.0, 0.001)
    """

    def __init__(self) -> None:
        self._pause = PAUSE_SECONDS_MIN

    def after(self, events: int) -> float:
        """The seconds to wait after so many events were read."""
        if events:
            self._pause = PAUSE_SECONDS_MIN
            return 0.0
        pause = self._pause
        self._pause = min(2 * pause, PAUSE_SECONDS_MAX)
        return pause


class Watcher:
    """Reads the events of all rings, and follows the feed from server to server.

    The events of one key come in the order of its changes, unless 65,536 events of a ring wait to
    be read, which a ring of the default size never holds. Events of different keys that are read
    together come in the order of their times; see ordering.py.

    Args:
        memory: the feed.
        find: returns the feed of the server that runs; None if none does.
        prefix: what the keys must begin with.
        since: `now` for events from now on, `oldest` to include those that the rings still hold.

    Raises:
        InvalidArgument: a prefix or a `since` that is not allowed.
        ForeignObject: it is no feed.
    """

    def __init__(
        self, memory: mmap.mmap, find: Find, prefix: Key = "", since: Since = "now"
    ) -> None:
        if not isinstance(prefix, (str, bytes)):
            raise InvalidArgument(f"a prefix is str or bytes, not {type(prefix).__name__}")
        if since not in ("now", "oldest"):
            raise InvalidArgument(f"since = {since!r}: use 'now' or 'oldest'")
        self._find = find
        self._find_at = 0.0
        self._prefix = prefix.encode() if isinstance(prefix, str) else prefix
        self._readers: list[FeedReader] = []
        self._order = InOrder(self._read_rings)
        self._attach(memory, from_oldest=since == "oldest")

    def _attach(self, memory: mmap.mmap, *, from_oldest: bool) -> None:
        self._memory = memory
        self._readers = [
            FeedReader(memory, ring, from_oldest, self._prefix)
            for ring in range(feed_rings(memory))
        ]

    def read(self) -> list[Event]:
        """The events since the last call; an empty list if there are none."""
        retired = self._readers[0].retired  # before reading: then the reads below are complete
        events = list(_flushes_once(self._order.next()))
        return events if events or not retired else self._follow()

    def _read_rings(self) -> Iterator[list[Event]]:
        return map(_all_of, self._readers)

    def _follow(self) -> list[Event]:
        """Switches to the next server's feed, from its beginning, if there is one by now."""
        if time.monotonic() < self._find_at:
            return []
        self._find_at = time.monotonic() + FIND_SECONDS
        memory = self._find()
        if memory is None:
            return []
        self.close()
        self._attach(memory, from_oldest=True)
        return [Event("lost", None, None, time.time())]

    def close(self) -> None:
        """Closes the feed."""
        for reader in self._readers:
            reader.close()
        self._memory.close()


def _all_of(reader: FeedReader) -> list[Event]:
    events: list[Event] = []
    for _ in range(_BATCHES_MAX):
        rows, lost = reader.read(_BATCH_EVENTS)
        if lost:
            at = rows[0][3] / 1000 if rows else time.time()
            events.append(Event("lost", None, None, at, lost))
        events += [_event(*row) for row in rows]
        if not rows and not lost:
            break
    return events


def _event(kind: str, key: Key | None, version: int, unix_ms: int) -> Event:
    if key is None:
        return Event("flush" if kind == "flush" else "lost", None, None, unix_ms / 1000)
    return Event(kind, key, version, unix_ms / 1000)


def _flushes_once(events: Iterable[Event]) -> Iterator[Event]:
    """Drops all but the first flush in a row, because each shard emits its own."""
    before = ""
    for event in events:
        if event.kind != "flush" or before != "flush":
            yield event
        before = event.kind
