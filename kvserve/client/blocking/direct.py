"""The blocking client that writes into the table itself: `connect(write="direct")`.

A change of one key goes straight through `TrustedWriter`. Pipelines, and rare operations, are
executed as a worker executes them, by its own code, in this process. What does not change keys one
by one goes to the workers: `flush`, `stats`, `verify`, and limiters, each key of which only one
worker may change.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from kvserve.client.blocking.client import Client
from kvserve.client.calls import operations as checks
from kvserve.client.calls.naming import naming
from kvserve.client.calls.operations import (
    NOT_KEPT_MS,
    TTL,
    Key,
    Operation,
    Operations,
    to_ttl_ms,
)
from kvserve.client.calls.rules import Rules
from kvserve.client.deadlines import deadline_of
from kvserve.client.options import Options
from kvserve.client.writer.executor import DirectTable
from kvserve.errors import (
    ClientClosed,
    KvserveError,
    RequestTimeout,
    ServerBusy,
    UnreadableValue,
    ValueTooLarge,
)
from kvserve.execution import many, slices
from kvserve.execution.executor import life_ms_of
from kvserve.names import Names
from kvserve.protocol import commands
from kvserve.protocol.codec import Value
from kvserve.protocol.commands import Command
from kvserve.table._core import LeaseLost, TrustedWriter, check_key, check_keys


class DirectClient(TrustedWriter, Client):
    """A client that is a trusted writer; made by `kvserve.connect`.

    `TrustedWriter` is the first base, so its methods that change a key override those of `Client`.

    Args:
        names, options: as for any client.

    Raises:
        WriteRefused: this process may not write into the table.
        ServerBusy: as many processes as may do so already.
    """

    def __init__(self, names: Names, options: Options) -> None:
        super().__init__(names, options)
        self._timeout = options.timeout
        if options.rules != Rules():
            self._obey_rules()
        self._table = DirectTable(names, options.timeout)
        if options.is_lazy:
            return  # the first write joins
        try:
            self._join_writers()
        except BaseException:
            self.close()
            raise

    def _join_writers(self) -> None:
        """Called before a write where the slot was given up, or the live settings have changed."""
        self._require_open()
        self._table.enter()
        settings = self._table.settings
        self._operations.value_bytes_max = settings.value_bytes_max
        self._use_writer(*settings)
        self._require_open()  # a thread that closed it meanwhile found no slot to leave

    def _require_open(self) -> None:
        if self._closed:
            self._leave()
            raise ClientClosed("this client was closed")

    def _life_ms(self, ttl: TTL) -> int:
        return life_ms_of(to_ttl_ms(ttl))

    _check_counter = staticmethod(checks.check_counter)
    _check_version = staticmethod(checks.check_version)
    _check_kept = staticmethod(checks.check_kept)

    def _ask(self, command: Command, arguments: tuple[Any, ...]) -> Any:
        if command in commands.LIMITING:
            return super()._ask(command, arguments)
        while True:
            self._require_slot()
            with suppress(LeaseLost):  # meanwhile
                return self._table.answer(command, arguments)

    def _get_many_from_worker(self, found: dict[Key, Any], rest: list[Key]) -> dict[Key, Any]:
        self._follow_table()
        missing = object()
        for key in rest:
            with suppress(UnreadableValue):  # left out, as `Reader.get_many` does
                value = self._run(self._operations.get(key, missing))
                if value is not missing:
                    found[key] = value
        return found

    def _run_batch(self, operations: list[Operation]) -> list[Any]:
        for operation in operations:
            check_key(operation.key)  # all keys, before anything is done
        deadline = deadline_of(time.monotonic(), self._timeout)
        self._require_slot()
        results: list[Any] = []
        for operation in operations:
            try:
                if results and time.monotonic() > deadline:
                    raise ServerBusy("the time of this batch was over before this was begun")
                results.append(self._run(operation))
            except ClientClosed:
                raise
            except KvserveError as error:
                results.append(error)
        return results

    def _require_slot(self) -> None:
        if not self._table.is_current:
            self._join_writers()

    def _store_many(
        self,
        operations: Operations,
        names: Mapping[Key, Key],
        values: Mapping[Any, Value],
        ttl: TTL,
    ) -> None:
        items = {key: values[name] for key, name in names.items()}
        failed: list[Key] = list(items)
        with naming(operations, names, items, lambda: failed):
            ttl_ms = operations.ttl_ms(ttl)
            try:
                if ttl_ms == NOT_KEPT_MS:
                    operations.check_values(items)
                    self.delete_many(items)
                    return
                stopped = self._set_all(items, operations.rules.lifetime(ttl))
            except ValueTooLarge as refused:
                failed = refused.failed or failed
                if large := operations.to_remove(items):
                    self.delete_many(large)
                raise
            if stopped is not None:
                error, done = stopped
                failed = failed[done:]
                if done:  # ServerBusy would promise that nothing was changed
                    raise RequestTimeout(f"not everything was done in time: {error}")
                raise error

    def delete_many(self, keys: Iterable[Key]) -> int:
        """See `Client.delete_many`."""
        keys = [self._operations.key(key) for key in check_keys(keys)]
        for key in keys:
            check_key(key)
        self._require_slot()
        return slices.to_the_end(many.each(self.delete, keys))

    def close(self) -> None:
        """See `Client.close`. The last one of a process gives its writer slot back."""
        super().close()
        self._leave()

    def _leave(self) -> None:
        self._table.leave()
        self._drop_writer()
