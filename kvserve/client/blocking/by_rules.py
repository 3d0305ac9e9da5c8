"""The writes of a namespace whose rules are not the client's."""

from __future__ import annotations

from functools import partial
from typing import Any

from kvserve.client.calls.operations import TTL, Key, Operations, Tags
from kvserve.client.contract import Cache
from kvserve.protocol.codec import Value


class ByRules:
    """Methods of a client, by the rules of these operations.

    Args:
        client: executes them.
        operations: make them.
    """

    def __init__(self, client: Cache, operations: Operations) -> None:
        self._change = partial(client._change, operations)

    def set(self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None) -> int:
        version: int = self._change("set", key, value, ttl, tags=tags)
        return version

    def add(self, key: Key, value: Value, ttl: TTL = None, *, tags: Tags | None = None) -> bool:
        return bool(self._change("add", key, value, ttl, tags=tags))

    def replace(
        self,
        key: Key,
        value: Value,
        ttl: TTL = None,
        *,
        keep_ttl: bool = False,
        tags: Tags | None = None,
    ) -> bool:
        return bool(self._change("replace", key, value, ttl, keep_ttl=keep_ttl, tags=tags))

    def cas(
        self,
        key: Key,
        value: Value,
        version: int,
        ttl: TTL = None,
        *,
        keep_ttl: bool = False,
        tags: Tags | None = None,
    ) -> bool:
        return bool(self._change("cas", key, value, version, ttl, keep_ttl=keep_ttl, tags=tags))

    def touch(self, key: Key, ttl: TTL = None) -> bool:
        return bool(self._change("touch", key, ttl))

    def incr(self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None) -> Any:
        return self._change("incr", key, delta, initial, ttl)

    def decr(self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None) -> Any:
        return self._change("decr", key, delta, initial, ttl)
