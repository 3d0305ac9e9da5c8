"""From an operation to its result, the blocking way: which worker is asked, and how batches go."""

from __future__ import annotations

from typing import Any

from kvserve.client.batches import split
from kvserve.client.direct import Read, TableFollower
from kvserve.client.operations import Key, Operation, Operations, check_timeout
from kvserve.client.workers import Workers
from kvserve.names import Names
from kvserve.protocol import commands
from kvserve.runtime import Manifest


class Dispatcher(TableFollower):
    """What the methods of the blocking client stand on.

    Args:
        names, read, queue_bytes: see `TableFollower`.
        timeout: seconds for each request.
    """

    def __init__(
        self, names: Names, *, timeout: float, read: Read, queue_bytes: int | None
    ) -> None:
        timeout = check_timeout(timeout)
        super().__init__(names, read, queue_bytes)
        self._operations = Operations(self.manifest.value_bytes_max)
        self._workers = Workers(names, self.manifest, timeout, queue_bytes, self._on_manifest)

    def _on_manifest(self, manifest: Manifest) -> None:
        self._operations.value_bytes_max = manifest.value_bytes_max
        super()._on_manifest(manifest)

    def _get_elsewhere(self, key: Key, default: Any) -> Any:
        self._follow_table()
        return self._run(self._operations.get(key, default))

    def _run(self, operation: Operation) -> Any:
        shard = self._shard_of(operation.key)
        return operation.interpret(self._workers.ask(operation.command, operation.arguments, shard))

    def _run_batch(self, operations: list[Operation]) -> list[Any]:
        """The result of each operation; errors are among them as objects."""
        results: list[Any] = [None] * len(operations)
        parts = split(
            operations,
            self._shard_of,
            self._workers.manifest.workers,
            self._workers.frame_bytes_max,
        )
        while parts:
            requests = [
                (commands.BATCH, part.next_arguments(), part.shard, part.idempotent)
                for part in parts
            ]
            for part, answers in zip(parts, self._workers.ask_each(requests), strict=True):
                part.take(answers, results)
            parts = [part for part in parts if not part.finished]
        return results

    def _ask_all_workers(self, command: commands.Command) -> list[Any]:
        self._follow_table()
        count = self._workers.manifest.workers
        return self._workers.ask_each([(command, (), worker, True) for worker in range(count)])

    def close(self) -> None:
        """Ends the sessions and lets go of the table. Any other call then raises ClientClosed.

        Example:
            >>> cache.close()
        """
        self._workers.close()
        super().close()
