"""Connects to a server so that cancelling at any moment leaves nothing open.

uvloop's `create_connection` leaves a handle behind if it is cancelled while it connects, and then
its loop cannot be closed. So the socket is connected here, and handed over once it is connected.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import lru_cache

from kvserve.store.valkey.address import Address, Node


async def connect(node: Node, address: Address, protocol: asyncio.Protocol) -> None:
    """Connects a protocol; calls its `connection_made` before it returns.

    Raises:
        OSError: there is no connection.
    """
    loop = asyncio.get_running_loop()
    connected = await _socket(node)
    context = _secure(address.ca_file) if address.is_tls else None
    try:
        handing_over = loop.create_task(_hand_over(loop, protocol, connected, context, node))
    except BaseException:
        connected.close()
        raise
    try:
        await asyncio.shield(handing_over)
    except asyncio.CancelledError:
        handing_over.add_done_callback(_abort)
        raise


async def _hand_over(
    loop: asyncio.AbstractEventLoop,
    protocol: asyncio.Protocol,
    connected: socket.socket,
    context: ssl.SSLContext | None,
    node: Node,
) -> asyncio.BaseTransport:
    try:
        if connected.family == socket.AF_UNIX:
            transport, _ = await loop.create_unix_connection(lambda: protocol, sock=connected)
        else:
            transport, _ = await loop.create_connection(
                lambda: protocol,
                sock=connected,
                ssl=context,
                server_hostname=node.host if context else None,
            )
    except BaseException:
        connected.close()
        raise
    return transport


def _abort(handing_over: asyncio.Task[asyncio.BaseTransport]) -> None:
    if not handing_over.cancelled() and handing_over.exception() is None:
        handing_over.result().abort()  # type: ignore[attr-defined]  # a Transport's


async def _socket(node: Node) -> socket.socket:
    loop = asyncio.get_running_loop()
    if not node.port:
        return await _to(loop, socket.AF_UNIX, node.host)
    found = await loop.getaddrinfo(node.host, node.port, type=socket.SOCK_STREAM)
    failure = OSError(f"{node.host} has no address")
    for family, _, _, _, place in found:
        try:
            return await _to(loop, family, place)
        except OSError as error:
            failure = error
    raise failure


async def _to(
    loop: asyncio.AbstractEventLoop, family: int, place: tuple[object, ...] | str
) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        if family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(made, place)
    except BaseException:
        made.close()
        raise
    return made


@lru_cache(maxsize=4)
def _secure(ca_file: str | None) -> ssl.SSLContext:
    """The TLS settings, cached: reading the certificates takes longer than connecting."""
    return ssl.create_default_context(cafile=ca_file)
