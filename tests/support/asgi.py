"""Drives an ASGI application with one request, as a server does; needs no client library."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote


@dataclass
class Answer:
    """What came back; `messages` are ASGI's."""

    status: int
    headers: dict[str, str]
    body: bytes
    messages: list[dict[str, Any]] = field(repr=False)


async def ask(
    app: Any,
    path: str = "/",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    host: str = "shop",
) -> Answer:
    """A request's answer; `path` may have a query. Exceptions of the application come out."""
    route, _, query = path.partition("?")
    named = {"host": host, **(headers or {})}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": unquote(route), "raw_path": route.encode(), "root_path": "",
        "query_string": query.encode(), "server": (host, 80), "client": ("203.0.113.9", 1),
        "headers": [(name.lower().encode(), value.encode()) for name, value in named.items()],
        "state": {},
    }  # fmt: skip
    messages: list[dict[str, Any]] = []
    received = False

    async def receive() -> dict[str, Any]:
        nonlocal received
        if received:
            await asyncio.sleep(3600)
        received = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(dict(message))

    await app(scope, receive, send)
    start = next(each for each in messages if each["type"] == "http.response.start")
    answered: dict[str, str] = {}
    for name, value in start.get("headers", ()):
        key, text = name.decode().lower(), value.decode("latin-1")
        answered[key] = f"{answered[key]}, {text}" if key in answered else text
    parts = [each for each in messages if each["type"] == "http.response.body"]
    assert not parts[-1].get("more_body", False), "the body has no end"
    return Answer(
        start["status"], answered, b"".join(each.get("body", b"") for each in parts), messages
    )
