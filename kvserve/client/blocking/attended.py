"""The blocking client that is made before its server: it looks, waits and starts at its first use.

Each way to a worker leads through `_attended`. A hit leads past it, as in any other client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from kvserve.client.absent.arrival import Arrival
from kvserve.client.absent.kinds import Kind, kind_of, kind_of_all
from kvserve.client.absent.patience import pauses
from kvserve.client.blocking.client import Client
from kvserve.client.calls.operations import TTL, AnyKey, Key, Operation, Tags
from kvserve.client.options import Options
from kvserve.errors import ServerUnavailable
from kvserve.names import Names
from kvserve.protocol import commands
from kvserve.protocol.commands import Command
from kvserve.runtime import named_errors
from kvserve.table._core import check_key, check_keys

T = TypeVar("T")


class AttendedClient(Client):
    """A client that is made before its server; made by `kvserve.connect`.

    Args:
        names, options: as for any client.
    """

    def __init__(self, names: Names, options: Options) -> None:
        self._arrival = Arrival(names, options)
        super().__init__(names, options)

    def _attended(self, kind: Kind, miss: T, function: Callable[..., T], *args: Any) -> T:
        """What the function returns, once there is a server.

        Args:
            kind: of the request.
            miss: what to return for a read if there is none, and a write would start one.
            function: may be called again if it raises ServerUnavailable.
            args: its arguments.

        Raises:
            ServerUnavailable: there is no server, and none to wait for or to start.
        """
        arrival = self._arrival
        is_started = False
        for pause in pauses():
            try:
                self._find()
                return function(*args)
            except ServerUnavailable:
                if arrival.launch is not None:
                    if kind is Kind.READ:
                        return miss
                    if kind is Kind.WRITE and not is_started:
                        arrival.launch.run()
                        is_started = True
                        continue
                if not arrival.may_wait(time.monotonic()):
                    raise
            time.sleep(pause)
        raise AssertionError("pauses have no end")

    def _find(self) -> None:
        with named_errors():
            super()._follow_table()
        self._arrival.came()

    def _follow_table(self) -> None:
        self._attended(Kind.READ, None, _nothing)

    def _get_from_worker(self, key: Key, default: Any) -> Any:
        self._operations.check_key(key)
        return self._attended(Kind.READ, default, super()._get_from_worker, key, default)

    def _get_many_from_worker(self, found: dict[Key, Any], rest: list[Key]) -> dict[Key, Any]:
        return self._attended(Kind.READ, found, super()._get_many_from_worker, found, rest)

    def _ask(self, command: Command, arguments: tuple[Any, ...]) -> Any:
        check_key(arguments[0])
        return self._attended(kind_of(command), None, super()._ask, command, arguments)

    def _run_batch(self, operations: list[Operation]) -> list[Any]:
        kind = kind_of_all(operation.command for operation in operations)
        misses = [each.interpret(None) for each in operations] if kind is Kind.READ else []
        return self._attended(kind, misses, super()._run_batch, operations)

    def set_many(
        self, values: Mapping[AnyKey, Any], ttl: TTL = None, *, tags: Tags | None = None
    ) -> None:
        """See `Client.set_many`."""
        set_many = partial(super().set_many, tags=tags)
        self._attended(Kind.WRITE, None, set_many, values, ttl)

    def delete_many(self, keys: Iterable[Key]) -> int:
        """See `Client.delete_many`."""
        return self._attended(Kind.WRITE, 0, super().delete_many, list(check_keys(keys)))

    def _ask_all_workers(self, command: Command) -> list[Any]:
        kind = Kind.WRITE if command is commands.FLUSH else Kind.QUESTION
        return self._attended(kind, [], super()._ask_all_workers, command)


def _nothing() -> None:
    pass
