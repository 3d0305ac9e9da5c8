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
from kvserve.integrations.urls import options_of

__all__ = ["KvserveCache"]

_NAMESPACE = "aiocache"


class KvserveCache(BaseCache):
    """aiocache's interface, with the meanings of its Redis backend.

    Args:
        name: the instance; default: as for `kvserve.connect`.
        serializer: default: `JsonSerializer`, as for Redis. `NullSerializer` stores what kvserve
            can as it is, and everything else as the option `codec` says.
        plugins, namespace, key_builder, ttl: as for every cache of aiocache.
        timeout: seconds for a call, as for every cache of aiocache, where it is 5. None, the
            default here, leaves it to kvserve's own limit for each request, and costs a get nothing.
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
        given = options_of("kvserve://?" + "&".join(f"{k}={v}" for k, v in options.items()))
