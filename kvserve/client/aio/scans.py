"""All keys that begin with a prefix or match a pattern: found, and removed. The asyncio kind."""

from __future__ import annotations

from kvserve import limits
from kvserve.client.aio.recipes import AsyncRecipes
from kvserve.client.calls.operations import Key


class AsyncScans(AsyncRecipes):
    """Methods of the asyncio client and its namespaces."""

    async def _full_terms(self, prefix: Key, match: Key | None) -> tuple[Key, Key | None]:
        """What the client scans for, to find what a caller here asks for."""
        return prefix, match

    async def delete_prefix(self, prefix: Key) -> int:
        """See `Client.delete_prefix`."""
        return await self._delete_scanned(*await self._full_terms(prefix, None))

    async def delete_matching(self, match: Key) -> int:
        """See `Client.delete_matching`."""
        return await self._delete_scanned(*await self._full_terms("", match))

    async def _delete_scanned(self, prefix: Key, match: Key | None) -> int:
        count = 0
        some: list[Key] = []
        async for key in self._root.scan(prefix, match):
            some.append(key)
            if len(some) == limits.DELETE_SCANNED_KEYS:
                count += await self._root.delete_many(some)
                some = []
        return count + (await self._root.delete_many(some) if some else 0)
