"""From an operation to its result, blocking: which worker is asked, and how batches are sent."""

from __future__ import annotations

import time
from typing import Any, Self

from kvserve.client.absent.lost import Lost
from kvserve.client.blocking.workers import WorkerPool
from kvserve.client.calls.batches import Batch
from kvserve.client.calls.call import (
    Call,
    Looks,
    instead_of_misrouted,
    raise_combined,
)
from kvserve.client.calls.many import GetMany, Many
from kvserve.client.calls.operations import Bound, Key, Operation, Operations
from kvserve.client.follower import TableFollower
from kvserve.client.options import Options
from kvserve.errors import KvserveError, ServerError, WrongWorker
from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.protocol.commands import Command
from kvserve.table._core import Reader


class Dispatcher(TableFollower):
    """The base of the blocking client's methods.

    Args:
        names: the instance's.
        options: the caller's.
    """

    def __init__(self, names: Names, options: Options) -> None:
        values = options.values()
        super().__init__(names, options.read, values, is_lazy=options.is_lazy)
        bound = Bound(self._manifest.value_bytes_max)
        self._operations = Operations(bound, values, options.rules)
        self._fit_keys_by(options.rules)
        self._workers = WorkerPool(
            names, self._manifest, options, self._on_manifest, self._died_over
        )

    @property
    def _reader(self) -> Reader:
        return self

    @property
    def _timeout_seconds(self) -> float:
        return self._workers.timeout

    @property
    def _strict(self) -> Self:
        """The client as one whose methods raise all errors, for recipes that must know."""
        return self

    def _missed(self, error: ServerError, keys: list[Key] | None = None) -> None:
        """Takes an error of a recipe as a miss, or as a lost write of these keys; or raises it."""
        del keys
        raise error

    @property
    def lost(self) -> Lost:
        """What `connect(on_error="miss")` made of errors so far. It asks no server.

        Returns:
            A `kvserve.Lost`: the numbers of reads that were misses and of writes that were lost,
            how many keys are missing here until the server has been told, and the last error.

        Example:
            >>> cache.lost.writes, cache.lost.error
            (0, None)
        """
        return Lost()

    def _on_manifest(self, manifest: Manifest) -> None:
        self._operations.value_bytes_max = manifest.value_bytes_max
        super()._on_manifest(manifest)

    def _get_from_worker(self, key: Key, default: Any) -> Any:
        self._follow_table()
        operation = self._operations.get(key, default)
        return operation.interpret(self._ask(operation.command, operation.arguments))

    def _get_many_from_worker(self, found: dict[Key, Any], rest: list[Key]) -> dict[Key, Any]:
        self._follow_table()
        names = {self._operations.key(key): key for key in rest}
        gets = GetMany(self._split(names, self._workers.count()), self._operations.values.decode)
        self._run_calls(gets)
        return found | {names[key]: value for key, value in gets.found.items()}

    def _run(self, operation: Operation) -> Any:
        command, arguments, interpret = operation
        return interpret(self._ask(command, arguments))

    def _ask(self, command: Command, arguments: tuple[Any, ...]) -> Any:
        """The answer to a request about one key, its first argument."""
        deadline = self._workers.deadline()
        looks = Looks()
        while True:
            try:
                return self._workers.ask(command, arguments, self._shard_of(arguments[0]), deadline)
            except WrongWorker:
                if not looks.may_look(time.monotonic(), deadline):
                    raise
                self._workers.look_again()

    def _run_batch(self, operations: list[Operation]) -> list[Any]:
        """The result of each operation; errors are among them as objects."""
        workers = self._workers
        batch = Batch(operations, self._shard_of, workers.count(), workers.frame_bytes_max)
        self._run_calls(batch)
        return batch.results

    def _run_calls(self, call: Batch | Many) -> None:
        """Asks until nothing is left. Each request has the client's timeout; one that came to a
        wrong worker keeps the deadline that it has."""
        deadline = self._workers.deadline()
        looks = Looks()
        while calls := call.calls():
            outcomes = self._workers.ask_each(calls, deadline)
            if call.take(outcomes):
                if not looks.may_look(time.monotonic(), deadline):
                    raise_combined(calls, outcomes, begun=call.begun)
                try:
                    self._workers.look_again()
                except KvserveError as error:  # it may promise more than is true of all calls
                    raise_combined(calls, instead_of_misrouted(outcomes, error), begun=call.begun)
                call.split(self._shard_of, self._workers.manifest.workers)
            else:
                deadline = self._workers.deadline()

    def _ask_all_workers(self, command: Command) -> list[Any]:
        self._follow_table()
        deadline = self._workers.deadline()
        while True:
            workers = self._workers.manifest.workers
            calls = [Call(command, (), n, idempotent=True) for n in range(workers)]
            answers = self._workers.ask_each(calls, deadline)
            raise_combined(calls, answers)
            if self._workers.manifest.workers == workers:
                return answers
            # The server was restarted with another number of workers: ask each of those.

    def close(self) -> None:
        """Ends the sessions and lets go of the table. Any other call then raises ClientClosed.

        Example:
            >>> cache.close()
        """
        self._workers.close()
        super().close()
