"""The application of `application.py` with the asyncio client, for ASGI servers."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import kvserve

OPTIONS = {"timeout": 10, **json.loads(os.environ.get("CONNECT_OPTIONS", "{}"))}
cache = kvserve.async_client(**OPTIONS)
with suppress(kvserve.ServerUnavailable), kvserve.connect() as blocking:
    blocking.incr("imported")


@cache.memoize(ttl=3600)
async def page(number: int) -> str:
    """See `application.page`."""
    return f"page {number} {secrets.token_hex(8)}"


async def answer(path: str) -> tuple[int, str]:
    """The status and the text for a path."""
    try:
        if path == "/count":
            return await count()
        if path == "/read":
            return 200, await page(7)
    except kvserve.ServerError as error:
        return 503, type(error).__name__
    return 404, path


async def count() -> tuple[int, str]:
    """Counts one up, and writes a long value that no other task of any process writes."""
    total = await cache.incr("counter")
    key = f"{os.getpid()} {id(asyncio.current_task())}"
    await cache.set(key, [total] * 3000)
    good = await cache.get(key) == [total] * 3000
    return (200, str(total)) if good else (500, "mixed up")


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The application, for ASGI servers."""
    if scope["type"] == "lifespan":
        while (event := (await receive())["type"]) != "lifespan.shutdown":
            await send({"type": f"{event}.complete"})
        await cache.close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    status, text = await answer(scope["path"])
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})
