"""Responses of an application in the cache: how they are found, stored, awaited and invalidated.

A page is a URL. Its *index* names the request's fields that its responses were chosen by (Vary),
and outlives them: who misses a response of a page with an index knows that it can be cached, so
that one process makes it and the others wait. An error of kvserve's is a miss here, or a response
that is not stored; only invalidation raises.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kvserve.client.aio.locks import driver_of
from kvserve.client.recipes.key_layout import joined
from kvserve.client.recipes.tags import marks_of, tag_keys
from kvserve.errors import KvserveError, MisuseError
from kvserve.integrations import http_rules as rules
from kvserve.integrations.places import Before, Claim, Place, path_tag
from kvserve.integrations.shared import check_options, open_async_namespace, open_namespace
from kvserve.integrations.stored_response import Stored

if TYPE_CHECKING:
    from kvserve.client.aio.namespaces import AsyncNamespace
    from kvserve.client.blocking.namespaces import Namespace

LOG = logging.getLogger("kvserve")
NAMESPACE = "responses"
INDEX_SECONDS = 86_400.0  # how long a page without responses is known to be one that can be cached
_POLL_SECONDS, _POLL_SECONDS_MAX = 0.002, 0.02


class ResponseCache:
    """The responses of an application, for all its processes. Made at import; connects when used.

    Args:
        default_ttl: seconds for which a response is kept that names none, of a route that names
            none; None: it is not kept.
        max_bytes: a longer body is passed on and not kept; neither is one beyond the server's own
            limit, `kvserve serve --max-value`.
        ignore_query: parameters that make no difference, such as `utm_source`.
        ignore_cookies: that a request has cookies says nothing about the response. Otherwise its
            response is kept only if it is marked as public, or has `Vary: Cookie`.
        obey_requests: requests with `Cache-Control: no-cache` or `max-age=0` get fresh responses.
        wait: seconds for which a request waits for another that makes the same response; 0: never.
        status_header: the name of a header, such as `X-Cache`, that tells HIT, MISS or BYPASS.
        options: those of `kvserve.connect`, `name` and `namespace`.

    Raises:
        InvalidArgument, InvalidName, ConfigError: an argument is wrong. No server is asked.

    Example:
        >>> pages = ResponseCache(default_ttl=60, status_header="X-Cache")
        >>> async def main():
        ...     await pages.invalidate_tag("item:7")
        ...     await pages.invalidate_path("/items/7")
        ...     await pages.clear()
        >>> asyncio.run(main())
    """

    def __init__(
        self,
        *,
        default_ttl: float | None = None,
        max_bytes: int = 1_000_000,
        ignore_query: Collection[str] = (),
        ignore_cookies: bool = False,
        obey_requests: bool = True,
        wait: float = 10.0,
        status_header: str | None = None,
        **options: Any,
    ) -> None:
        self.default_ttl = default_ttl
        self.max_bytes = max_bytes
        self.ignore_query = frozenset(ignore_query)
        self._personal = rules.PERSONAL[:1] if ignore_cookies else rules.PERSONAL
        self.obey_requests = obey_requests
        self.wait = wait
        self.status_header = status_header.lower().encode() if status_header else None
        self._options = {"codec": None, **options}
        check_options(self._options)
        self._has_told = False

    @cached_property
    def _cache(self) -> AsyncNamespace:
        return open_async_namespace(self._options, namespace=NAMESPACE)

    def blocking(self) -> Namespace:
        """The same for code without an event loop: its `invalidate_tag(tag)` and `clear()`.

        Responses have the tags of their routes, and `path_tag(path)`.

        Example:
            >>> ResponseCache().blocking().invalidate_tag(path_tag("/items/7"))
        """
        return open_namespace(self._options, namespace=NAMESPACE)

    async def invalidate_tag(self, tag: str) -> None:
        """Makes all responses with a tag misses, in every process, at once."""
        await self._cache.invalidate_tag(tag)

    async def invalidate_path(self, path: str) -> None:
        """Makes all responses of a path misses, such as "/items/7", with whatever query."""
        await self._cache.invalidate_tag(path_tag(path))

    async def forget_path(self, path: str) -> None:
        """The same, after a change that has happened: an error of kvserve's is not the caller's."""
        try:
            await self.invalidate_path(path)
        except KvserveError as error:
            LOG.warning("responses of %s may be outdated for their ttl: %s", path, error)

    async def clear(self) -> None:
        """Makes all responses misses."""
        await self._cache.clear()

    def personal(self, request: rules.Fields) -> list[bytes]:
        """The request's fields for whose sake its response may be for one user alone."""
        return [name for name in self._personal if name in request]

    async def look(self, page: str, request: rules.Fields) -> tuple[Place, Stored | None]:
        """Where a page's response to a request is, and the response, if it is there."""
        try:
            index = await self._cache.get(f"index:{page}")
            if index is None:
                return Place(page), None
            names, for_everybody = index
            key = _key(page, names, request)
            return Place(page, names, for_everybody, key), await self._response(key)
        except KvserveError:
            return Place(page), None

    async def _response(self, key: str) -> Stored | None:
        found = await self._cache.get(key)
        return None if found is None else Stored(*found)

    async def begin(self, place: Place) -> tuple[Claim, Stored | None]:
        """Before a response is made: waits for it, if another request makes it just now.

        Returns:
            A claim, which must be ended, and the other request's response, if there is one.
        """
        if place.names is None or not self.wait:
            return Claim(), None
        claim = f"claim:{place.key}"
        with suppress(KvserveError):
            if await self._cache.add(claim, 1, ttl=self.wait):
                return Claim(self._cache, claim), None
            give_up, pause = time.monotonic() + self.wait, _POLL_SECONDS
            while time.monotonic() < give_up:
                is_made = await self._cache.contains(claim)
                if (found := await self._response(place.key)) is not None or not is_made:
                    return Claim(), found
                await asyncio.sleep(pause)
                pause = min(pause * 2, _POLL_SECONDS_MAX)
        return Claim(), None

    async def before(self, tags: Collection[str]) -> Before | None:
        """What a response with these tags is stored with, of a moment before it is computed.

        If one of its tags is invalidated meanwhile, or all is cleared, it is stored out of reach.
        None: the server does not answer.
        """
        cache = self._cache
        try:
            prefix = await cache._prefix()
            return Before(
                prefix, await marks_of(driver_of(cache._root), tag_keys(cache._path, tags))
            )
        except MisuseError as error:  # a store behind the server keeps no tags: so for ever
            if not self._has_told:
                self._has_told = True
                LOG.warning("no response is kept: %s", error)
            return None
        except KvserveError as error:
            LOG.debug("a response is not stored: %s", error)
            return None

    async def store(
        self, place: Place, request: rules.Fields, made: Stored, before: Before | None
    ) -> None:
        """Stores a response, unless it is too large, or the server does not answer."""
        names = tuple(sorted(rules.vary(rules.fields(made.headers)).union(place.names or ())))
        ttl = made.until - time.time()
        if before is None or ttl <= 0:
            return
        root = self._cache._root
        try:
            if (names, made.for_everybody) != (place.names, place.for_everybody):
                key = joined(before.prefix, f"index:{place.page}")
                await root.set(key, (names, made.for_everybody), max(ttl, INDEX_SECONDS))
            key = joined(before.prefix, _key(place.page, names, request))
            await driver_of(root).set_marked(before.marks, key, tuple(made), ttl)
        except KvserveError as error:
            LOG.debug("a response is not stored: %s", error)


def _key(page: str, names: Collection[bytes], request: rules.Fields) -> str:
    return f"page:{rules.variant(names, request) if names else ''}:{page}"
