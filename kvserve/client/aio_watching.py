"""`watch` for users of the asyncio client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from kvserve.client.direct import Ending, TableFollower
from kvserve.client.watching import open_watcher, patience_of
from kvserve.live.feed import Event, Key, Pace, Since, Watcher
from kvserve.names import Names


class AsyncWatching:
    """`watch` for the asyncio client."""

    _names: Names
    _reader: TableFollower

    def watch(
        self, prefix: Key = "", since: Since = "now", timeout: float | None = None
    ) -> AsyncIterator[Event]:
        """See `Client.watch`; to be used with `async for`.

        Example:
            >>> async def first():
            ...     async with await kvserve.connect_async() as cache:
            ...         events = cache.watch("user:", timeout=2)
            ...         await cache.set("user:1", "Ada")
            ...         async for event in events:
            ...             return event.kind, event.key
            >>> asyncio.run(first())
            ('set', 'user:1')
        """
        self._reader._follow_table()
        watcher = open_watcher(self._names, prefix, since)
        return _watch_async(watcher, patience_of(timeout), self._reader._ending)


async def _watch_async(watcher: Watcher, patience: float, ending: Ending) -> AsyncIterator[Event]:
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
            await asyncio.sleep(pace.after(len(events)))
    finally:
        watcher.close()
