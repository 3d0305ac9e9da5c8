"""What the blocking client does with the cache as a whole: watch, flush, ping, stats, verify."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from kvserve.client.blocking.dispatch import Dispatcher
from kvserve.client.calls.operations import Key
from kvserve.client.feed import events_of, open_watcher, patience_of
from kvserve.live.feed import Event, Since
from kvserve.protocol import commands
from kvserve.stats.collect import collect


class WholeCache(Dispatcher):
    """The methods of `Client` that are about no key."""

    def watch(
        self, prefix: Key = "", since: Since = "now", timeout: float | None = None
    ) -> Iterator[Event]:
        """The changes of the cache, as they happen, from this call on.

        Each worker and each trusted writer records its changes in a ring of shared memory. A
        watcher reads them there, so it costs the writers nothing, and sees each change 1 to 20 ms
        later. If it falls behind so far that a ring went round, an event says how many events were
        lost. The events of one key come in the order of its changes, whichever process made them. A
        restart of the server does not end the iteration; `close` does, also in another thread.

        Args:
            prefix: of the keys; `flush` and `lost` events come with any prefix.
            since: `now`, or `oldest`: first all events that the rings still hold.
            timeout: seconds without an event after which the iteration ends; None: never.

        Returns:
            An iterator of `kvserve.Event`s: kind, key, version, time and, for `lost`, the number of
            events lost.

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
        self._follow_table()  # raises if this client was closed
        watcher = open_watcher(self._names, prefix, since)
        return events_of(watcher, patience_of(timeout), self._ending)

    def flush(self) -> None:
        """Removes everything from the memory, of all namespaces, locks and limiters included.

        A store behind the server keeps what it has: what is asked for next comes from there.

        Example:
            >>> cache.flush()
            >>> list(cache.scan())
            []
        """
        self._ask_all_workers(commands.FLUSH)

    def ping(self) -> float:
        """Asks every worker for a sign of life; returns the seconds until all have answered.

        Example:
            >>> cache.ping() < 2.0
            True
        """
        started = time.perf_counter()
        self._ask_all_workers(commands.PING)
        return time.perf_counter() - started

    def stats(self) -> dict[str, Any]:
        """Statistics of the instance and of each worker, by name; see `kvserve stats --help`.

        Example:
            >>> cache.stats()["workers"][0]["index"]
            0
        """
        workers = self._ask_all_workers(commands.STATS)
        return collect(self._names, self._workers.manifest, self, workers)

    def verify(self) -> list[str]:
        """Checks every invariant of the table, shard by shard, while it is in use.

        Returns:
            The violated invariants, one sentence each; an empty list if all is well.

        Example:
            >>> cache.verify()
            []
        """
        self._follow_table()
        violations: list[str] = []
        for shard in range(self._workers.manifest.shards):
            violations += self._workers.ask(
                commands.VERIFY, (shard,), shard, self._workers.deadline()
            )
        return violations
