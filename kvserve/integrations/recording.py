"""A response on its way from an ASGI application: kept back until it is whole, or passed on.

It is passed on at its start if nobody wants to keep it, or if it has no Content-Length: then it is
a stream, whose parts must not wait for each other. Nothing here knows of HTTP's caching.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Message = Any  # an ASGI message: a mutable mapping
Send = Callable[[Message], Awaitable[None]]
_WITHOUT_BODY = (204, 304)


class Recorder:
    """What an application gets as `send`.

    Args:
        send: where messages go that are passed on.
        wanted: whether a response that begins with this message should be kept back.
        bytes_max: a response with a longer body is passed on.
        whole: is called with the first message and the body of a response that was kept back, in
            place of sending it.
        passed: is called before the first message is passed on.
    """

    def __init__(
        self,
        send: Send,
        *,
        wanted: Callable[[Message], bool],
        bytes_max: int,
        whole: Callable[[Message, bytes], Awaitable[None]],
        passed: Callable[[], Awaitable[None]],
    ) -> None:
        self._send = send
        self._wanted = wanted
        self._bytes_max = bytes_max
        self._whole = whole
        self._passed = passed
        self._start: Message = None  # as long as it is kept back
        self._parts: list[bytes] = []
        self._size = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            length = _length(message)
            if length is None or length > self._bytes_max or not self._wanted(message):
                await self._pass_on()
        elif self._start is None:
            await self._send(message)
        elif message["type"] == "http.response.body":
            part = message.get("body", b"")
            self._parts.append(part)
            self._size += len(part)
            if self._size > self._bytes_max:  # more than it announced
                await self._pass_on(message.get("more_body", False))
            elif not message.get("more_body", False):
                start, self._start = self._start, None
                await self._whole(start, b"".join(self._parts))
        else:  # an extension's, such as a path to send: there is no body to keep
            await self._pass_on()
            await self._send(message)

    async def _pass_on(self, more: bool = True) -> None:
        start, self._start = self._start, None
        await self._passed()
        await self._send(start)
        if self._parts:
            body, self._parts = b"".join(self._parts), []
            await self._send({"type": "http.response.body", "body": body, "more_body": more})


def _length(start: Message) -> int | None:
    """The bytes of the body that follows; None: its end is not known."""
    if start["status"] in _WITHOUT_BODY:
        return 0
    if start.get("trailers", False):
        return None
    for name, value in start.get("headers", ()):
        if name.lower() == b"content-length" and value.isdigit():
            return int(value)
    return None
