"""kvserve as a cache of aiocache. Importing this registers the scheme of `Cache.from_url`.

docs/aiocache.md says more.
"""

from __future__ import annotations

import math
from typing import Any

from aiocache import AIOCACHE_CACHES
from aiocache.base import BaseCache, _ensure_key
from aiocache.serializers import JsonSerializer, NullSerializer

from kvserve.errors import InvalidArgument, NotACounter
from kvserve.integrations.shared import open_async_namespace
from kvserve.integrations.urls import value_of

__all__ = ["KvserveCache"]

_NAMESPACE = "aiocache"


class KvserveCache(BaseCache):
    """aiocache's interface, with the meanings of its Redis backend.

    Args:
        name: the instance; default: as for `kvserve.connect`.
        serializer: default: `JsonSerializer`, as for Redis. `NullSerializer` stores what kvserve
            can as it is, and everything else as the option `codec` says.
        plugins, namespace, key_builder, ttl: as for every cache of aiocache.
        timeout: seconds for a call, as for every cache of aiocache, where it is 5. None, which is
            the default here, leaves it to kvserve's own limit for each request, and costs nothing.
        options: those of `kvserve.connect`.

    Example:
        >>> cache = KvserveCache(namespace="users")
        >>> async def main():
        ...     await cache.set("ada", {"age": 36}, ttl=60)
        ...     return await cache.get("ada")
        >>> asyncio.run(main())
        {'age': 36}
    """

    NAME = "kvserve"

    def __init__(
        self,
        name: str | None = None,
        *,
        serializer: Any = None,
        plugins: Any = None,
        namespace: str | None = None,
        key_builder: Any = None,
        timeout: float | None = None,
        ttl: float | None = None,
        endpoint: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            serializer=serializer or JsonSerializer(),
            plugins=plugins,
            namespace=namespace,
            key_builder=key_builder,
            timeout=timeout,
            ttl=ttl,
        )
        if name or endpoint:
            options["name"] = name or endpoint  # from_url calls it an endpoint
        options = {key: value_of(v) if isinstance(v, str) else v for key, v in options.items()}
        try:
            self._keys = open_async_namespace({"codec": None, **options}, namespace=_NAMESPACE)
        except InvalidArgument as error:
            raise TypeError(str(error)) from error  # what aiocache's caches raise

    @classmethod
    def parse_uri_path(cls, path: str) -> dict[str, Any]:
        """The options in a URL's path: none."""
        if path.strip("/"):
            raise TypeError(f"kvserve:// has no path, and this URL has {path!r}")
        return {}

    def _build_key(self, key: Any, namespace: str | None = None) -> Any:
        namespace = self.namespace if namespace is None else namespace
        return f"{namespace}:{_ensure_key(key)}" if namespace else _ensure_key(key)

    def _as_stored(self, value: Any, encoding: str | None) -> Any:
        """What the serializer gets: text, where `increment` made a number of it."""
        if type(value) is not int or isinstance(self.serializer, NullSerializer):
            return value
        return str(value) if encoding is not None else str(value).encode()

    async def _get(self, key: Any, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        return self._as_stored(await self._keys.get(key), encoding)

    async def _gets(self, key: Any, **_: Any) -> Any:
        _, version = await self._keys.gets(key)
        return version

    async def _multi_get(
        self, keys: list[Any], encoding: str | None = "utf-8", _conn: Any = None
    ) -> list[Any]:
        found = await self._keys.get_many(keys)
        return [self._as_stored(found.get(key), encoding) for key in keys]

    async def _set(
        self, key: Any, value: Any, ttl: float | None = None, _cas_token: Any = None,
        _conn: Any = None,
    ) -> bool:  # fmt: skip
        if _cas_token is not None:
            return await self._keys.cas(key, value, _cas_token, ttl=_seconds(ttl))
        await self._keys.set(key, value, ttl=_seconds(ttl))
        return True

    async def _multi_set(self, pairs: Any, ttl: float | None = None, _conn: Any = None) -> bool:
        await self._keys.set_many(dict(pairs), ttl=_seconds(ttl))
        return True

    async def _add(self, key: Any, value: Any, ttl: float | None = None, _conn: Any = None) -> bool:
        if not await self._keys.add(key, value, ttl=_seconds(ttl)):
            raise ValueError(f"Key {key} already exists, use .set to update the value")
        return True

    async def _exists(self, key: Any, _conn: Any = None) -> bool:
        return await self._keys.contains(key)

    async def _increment(self, key: Any, delta: int, _conn: Any = None) -> int:
        try:
            return await self._keys.incr(key, delta, ttl=math.inf) or 0
        except NotACounter:  # the serializer made a text of a number
            total = await self._keys.update(key, lambda value: _sum(value, delta))
            return int(total)

    async def _expire(self, key: Any, ttl: float, _conn: Any = None) -> bool:
        return await self._keys.touch(key, ttl=_seconds(ttl))

    async def _delete(self, key: Any, _conn: Any = None) -> int:
        return int(await self._keys.delete(key))

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        if namespace:
            await self._keys.delete_prefix(f"{namespace}:")
        else:
            await self._keys.clear()
        return True

    async def _raw(self, command: str, *args: Any, **kwargs: Any) -> Any:
        for of_aiocache in ("encoding", "_conn"):
            kwargs.pop(of_aiocache, None)
        return await getattr(self._keys, command)(*args, **kwargs)

    async def _redlock_release(self, key: Any, value: Any) -> int:
        held, version = await self._keys.gets(key)
        return int(held == value and await self._keys.delete(key, version))


def _seconds(ttl: float | None) -> float:
    """aiocache means for ever by None and 0."""
    return ttl or math.inf


def _sum(value: Any, delta: int) -> str | bytes:
    """A number's text, increased."""
    try:
        total = int(value) + delta
    except (TypeError, ValueError):
        raise TypeError("Value is not an integer") from None
    return str(total) if isinstance(value, str) else str(total).encode()


AIOCACHE_CACHES[KvserveCache.NAME] = KvserveCache
