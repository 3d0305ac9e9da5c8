"""What concerns the whole instance and not a key: all its workers are asked."""

from __future__ import annotations

import time
from typing import Any

from kvserve.client import figures
from kvserve.client.dispatch import Dispatcher
from kvserve.protocol import commands


class Upkeep(Dispatcher):
    """The methods of a client that an operator calls."""

    def flush(self) -> None:
        """Removes everything.

        Example:
            >>> cache.flush()
            >>> list(cache.scan())
            []
        """
        self._ask_all_workers(commands.FLUSH)

    def ping(self) -> float:
        """Asks every worker for a sign of life; returns the seconds until all had answered.

        Example:
            >>> cache.ping() < 2.0
            True
        """
        started = time.perf_counter()
        self._ask_all_workers(commands.PING)
        return time.perf_counter() - started

    def stats(self) -> dict[str, Any]:
        """Figures of the instance and of each worker, by name; see `kvserve stats --help`.

        Example:
            >>> cache.stats()["workers"][0]["index"]
            0
        """
        workers = self._ask_all_workers(commands.STATS)
        return figures.collect(self._names, self._workers.manifest, self, workers)

    def verify(self) -> list[str]:
        """Checks every invariant of the table, shard by shard, while it is in use.

        Returns:
            What is violated, one sentence each; an empty list if all is well.

        Example:
            >>> cache.verify()
            []
        """
        violations: list[str] = []
        for shard in range(self._workers.manifest.shards):
            violations += self._workers.ask(
                commands.VERIFY, (shard,), shard, self._workers.deadline()
            )
        return violations
