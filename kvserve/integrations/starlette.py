"""A cache of responses for Starlette, FastAPI and any ASGI application, in front of its routes.

`CacheMiddleware` answers from a `ResponseCache` what RFC 9111 lets a shared cache answer. A route
says by `Cache-Control`, or by `cached`, for how long; docs/fastapi.md has the rest.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvserve.integrations import http_rules as rules
from kvserve.integrations.recording import Recorder
from kvserve.integrations.responses import Claim, Place, ResponseCache, path_tag
from kvserve.integrations.routes import SCOPE_KEY, Marks, cached
from kvserve.integrations.stored_response import Stored, as_stored

__all__ = ["CacheMiddleware", "ResponseCache", "cached", "path_tag"]


class _Asked(NamedTuple):
    """A request that the cache may answer, and what follows from its fields."""

    scope: Scope
    request: rules.Fields
    told: dict[str, str]
    personal: list[bytes]
    place: Place

    def takes(self, found: Stored) -> bool:
        """Whether a stored response answers it."""
        now = time.time()
        if self.told and not rules.accepts(self.told, now - found.born, found.until - now):
            return False
        names = self.place.names or ()
        return found.for_everybody or all(name in names for name in self.personal)


class CacheMiddleware:
    """Answers from the cache what it may, and stores what may be stored.

    Args:
        cache: the `ResponseCache`; None: one of the `options`, which are its arguments.

    Example:
        >>> application = Starlette(middleware=[Middleware(CacheMiddleware, default_ttl=60)])
    """

    def __init__(self, app: ASGIApp, cache: ResponseCache | None = None, **options: Any) -> None:
        self.app = app
        self.cache = ResponseCache(**options) if cache is None else cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, self._invalidating(scope, send))
            return
        cache, request = self.cache, rules.fields(scope["headers"])
        page = rules.page(
            scope["scheme"], request.get(b"host", b""), scope["path"], scope["query_string"],
            cache.ignore_query,
        )  # fmt: skip
        told = rules.directives(request.get(b"cache-control", request.get(b"pragma")))
        if not cache.obey_requests:
            told = {}
        if page is None or "no-store" in told or not rules.NOT_FOR_US.isdisjoint(request):
            await self.app(scope, receive, self._telling(send, b"BYPASS"))
            return
        place, found = await cache.look(page, request)
        asked = _Asked(scope, request, told, cache.personal(request), place)
        if found is not None and asked.takes(found):
            await self._answer(found, asked, send, b"HIT")
        elif "only-if-cached" in told:
            await send({"type": "http.response.start", "status": 504, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        elif scope["method"] == "HEAD":
            await self.app(scope, receive, self._telling(send, b"MISS"))
        else:
            claim = Claim()
            if found is None and place.is_open_to(asked.personal):
                claim, found = await cache.begin(place)
                if found is not None and asked.takes(found):
                    await self._answer(found, asked, send, b"HIT")
                    return
            marks = scope[SCOPE_KEY] = Marks(cache, [path_tag(scope["path"])])
            if place.names is not None:  # of another page it is not known that it can be cached
                await marks.begin()
            try:
                await self.app(scope, receive, self._recorder(asked, marks, send, claim))
            finally:
                await claim.end()

    def _recorder(self, asked: _Asked, marks: Marks, send: Send, claim: Claim) -> Recorder:
        """Has a response sent, and stored before that, if it may be."""
        cache = self.cache
        seconds = 0.0

        def is_wanted(start: Message) -> bool:
            nonlocal seconds
            response = rules.fields(start.get("headers", ()))
            seconds = rules.lifetime(
                start["status"], response, marks.ttl, cache.default_ttl, time.time()
            )
            public = marks.public or rules.is_for_everybody(response)
            varying = rules.vary(response)
            return seconds > 0 and (public or all(name in varying for name in asked.personal))

        async def keep(start: Message, body: bytes) -> None:
            made = as_stored(start["status"], start.get("headers", ()), body, seconds, marks.public)
            if marks.before is None:
                await marks.begin()
            await cache.store(asked.place, asked.request, made, marks.before)
            await claim.end()
            await self._answer(made, asked, send, b"MISS")

        return Recorder(
            self._telling(send, b"MISS"),
            wanted=is_wanted,
            bytes_max=cache.max_bytes,
            whole=keep,
            passed=claim.end,
        )

    async def _answer(self, found: Stored, asked: _Asked, send: Send, status: bytes) -> None:
        headers = list(found.headers)
        code, body = found.status, b"" if asked.scope["method"] == "HEAD" else found.body
        if status == b"HIT":
            headers.append((b"age", b"%d" % max(time.time() - found.born, 0)))
        if code == 200 and rules.is_not_modified(asked.request, rules.fields(headers)):
            code, body, headers = 304, b"", rules.of_304(headers)
        send = self._telling(send, status)
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _telling(self, send: Send, status: bytes) -> Send:
        """Adds the header that tells what the cache did, if there is to be one."""
        name = self.cache.status_header
        if name is None:
            return send

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (name, status)]}
            await send(message)

        return tell

    def _invalidating(self, scope: Scope, send: Send) -> Send:
        """A change that succeeds makes what is stored of its path a miss (RFC 9111, 4.4)."""
        if scope["method"] in ("OPTIONS", "TRACE"):
            return send

        async def invalidate(message: Message) -> None:
            if message["type"] == "http.response.start" and 200 <= message["status"] < 400:
                await self.cache.forget_path(scope["path"])
            await send(message)

        return invalidate
