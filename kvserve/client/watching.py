"""`watch`: the change feed for users of the blocking client."""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Iterator
from contextlib import suppress

from kvserve import runtime
from kvserve.client.direct import Ending, TableFollower
from kvserve.client.operations import check_timeout
from kvserve.errors import ServerUnavailable
from kvserve.live import feed_segment
from kvserve.live.feed import Event, Key, Pace, Since, Watcher
from kvserve.manifest import Manifest
from kvserve.names import Names


class Watching(TableFollower):
    """`watch` for the blocking client."""

    def watch(
        self, prefix: Key = "", since: Since = "now", timeout: float | None = None
    ) -> Iterator[Event]:
        """The changes of the cache, as they happen, from this call on.

        Each worker and each trusted writer notes its changes in a ring of shared memory. A watcher
        reads them there, so it costs them nothing, and sees each 1 to 20 ms later. One that falls
        behind so far that a ring went round is told how many events it lost. The events of one key
        come in the order of its changes, whoever made them. A restart of the server does not end
        the iteration; `close` does, also in another thread.

        Args:
            prefix: of the keys; `flush` and `lost` come whatever it is.
            since: `now`, or `oldest`: first whatever the rings still hold.
            timeout: seconds without an event after which the iteration ends; None: never.

        Returns:
            An iterator of `kvserve.Event`s: kind, key, version, time and, of a `lost`, its number.

        Raises:
            ServerUnavailable: there is no server, or it was started with `feed_size = 0`.
            InvalidArgument: an argument is out of its range.

        Example:
            >>> events = cache.watch("user:", timeout=2)
            >>> cache.set("user:1", "Ada") > 0, cache.delete("user:1")
            (True, True)
            >>> next(events)
            Event(kind='set', key='user:1', version=..., time=..., lost=0)
            >>> next(events).kind
            'delete'
        """
        self._follow_table()  # or says that this client was closed
        watcher = open_watcher(self._names, prefix, since)
        return _watch(watcher, patience_of(timeout), self._ending)


def open_watcher(names: Names, prefix: Key = "", since: Since = "now") -> Watcher:
    """A watcher of a running instance.

    Raises:
        ServerUnavailable: nobody serves it, or it has no feed.
        InvalidArgument, ForeignObject: see `Watcher`.
    """
    with runtime.named_errors():
        memory = _find_feed(names)
        if memory is None:
            raise runtime.not_served(names)
        try:
            return Watcher(memory, lambda: _find_feed(names), prefix, since)
        except BaseException:
            with suppress(BufferError):  # readers that were begun have it until they are gone
                memory.close()
            raise


def _find_feed(names: Names) -> mmap.mmap | None:
    """The feed of the server that runs; None if none does, or none that is ready yet.

    Raises:
        ServerUnavailable: it has no feed.
    """
    try:
        owner_uid = runtime.verify_directory(names)
        if runtime.holder(names) is None:
            return None
        manifest = Manifest.read(names)
    except ServerUnavailable:
        return None
    if names.feed not in manifest.memory_objects:
        raise ServerUnavailable(
            f"the server {names.name!r} tells of no changes: it was started with feed_size = 0"
        )
    try:
        return feed_segment.attach(names, owner_uid)
    except FileNotFoundError:
        return None  # it has just stopped


def patience_of(timeout: float | None) -> float:
    return math.inf if timeout is None else check_timeout(timeout)


def _watch(watcher: Watcher, patience: float, ending: Ending) -> Iterator[Event]:
    pace = Pace()
    last = time.monotonic()
    try:
        while time.monotonic() - last < patience:
            events = watcher.read()
            for event in events:
                if ending.has_come:
                    return
                yield event
            if ending.has_come:
                return
            if events:
                last = time.monotonic()
            time.sleep(pace.after(len(events)))
    finally:
        watcher.close()
