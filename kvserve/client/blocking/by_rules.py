"""The writes of a namespace whose rules are not the client's."""

from __future__ import annotations

from typing import Any

from kvserve.client.calls.operations import TTL, Key, Operations
from kvserve.client.contract import Cache
from kvserve.protocol.codec import Value


class ByRules:
    """Methods of a client, by the rules of these operations.

    Args:
        client: executes them.
        operations: make them.
    """

    def __init__(self, client: Cache, operations: Operations) -> None:
        self._client = client
        self._operations = operations

    def set(self, key: Key, value: Value, ttl: TTL = None) -> int:
        return self._client._set_or_lose(self._operations, key, value, ttl)

    def add(self, key: Key, value: Value, ttl: TTL = None) -> bool:
        return bool(self._client._run_or_lose(self._operations.add(key, value, ttl)))

    def replace(self, key: Key, value: Value, ttl: TTL = None, *, keep_ttl: bool = False) -> bool:
        operation = self._operations.replace(key, value, ttl, keep_ttl=keep_ttl)
        return bool(self._client._run_or_lose(operation))

    def cas(
        self, key: Key, value: Value, version: int, ttl: TTL = None, *, keep_ttl: bool = False
    ) -> bool:
        operation = self._operations.cas(key, value, version, ttl, keep_ttl=keep_ttl)
        return bool(self._client._run_or_lose(operation))

    def touch(self, key: Key, ttl: TTL = None) -> bool:
        return bool(self._client._run_or_lose(self._operations.touch(key, ttl)))

    def incr(self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None) -> Any:
        return self._client._run_or_lose(self._operations.incr(key, delta, initial, ttl))

    def decr(self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None) -> Any:
        return self._client._run_or_lose(self._operations.decr(key, delta, initial, ttl))
