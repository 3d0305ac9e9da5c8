"""What `watch` of both clients reads from: the change feed of the running server."""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Iterator
from contextlib import suppress

from kvserve import runtime
from kvserve.client.follower import Ending
from kvserve.client.options import check_timeout
from kvserve.errors import ServerUnavailable
from kvserve.live import feed_segment
from kvserve.live.feed import Event, Key, Pace, Since, Watcher
from kvserve.manifest import Manifest
from kvserve.names import Names


def open_watcher(names: Names, prefix: Key = "", since: Since = "now") -> Watcher:
    """A watcher of a running instance.

    Raises:
        ServerUnavailable: no server serves it, or it has no feed.
        InvalidArgument, ForeignObject: see `Watcher`.
    """
    with runtime.named_errors():
        memory = _find_feed(names)
        if memory is None:
            raise runtime.not_served(names)
        try:
            return Watcher(memory, lambda: _find_feed(names), prefix, since)
        except BaseException:
            with suppress(BufferError):  # readers that have started keep it until they are gone
                memory.close()
            raise


def _find_feed(names: Names) -> mmap.mmap | None:
    """The feed of the running server; None if none runs, or none is ready yet.

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
            f"the server {names.name!r} reports no changes: it was started with feed_size = 0"
        )
    try:
        return feed_segment.attach(names, owner_uid)
    except FileNotFoundError:
        return None  # it has just stopped


def patience_of(timeout: float | None) -> float:
    """Seconds; None is for ever. Raises InvalidArgument."""
    return math.inf if timeout is None else check_timeout(timeout)


def events_of(watcher: Watcher, patience: float, ending: Ending) -> Iterator[Event]:
    """The events of a watcher, which is closed at the end.

    Args:
        watcher: where they come from.
        patience: seconds without an event after which the iteration ends.
        ending: the iteration ends when this has come.
    """
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
