"""One connection to a server, over which the server pushes the keys that have changed.

RESP3 has push messages, and `CLIENT TRACKING ON BCAST` makes the server push `invalidate` with the
keys that any client changes. redis-py hides these messages behind its parser's internals, so this
is an asyncio protocol of our own over hiredis' parser. Messages are handled in order of arrival.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from kvserve.store.valkey.address import Address, Node
from kvserve.store.valkey.connect import connect
from kvserve.store.valkey.wire import Refused, pack

_INVALIDATE = b"invalidate"

OnInvalid = Callable[[Sequence[bytes] | None], None]


class LinkLost(Exception):
    """The connection ended, or could not be made. Never leaves the store."""


class Link(asyncio.Protocol):
    """See above; made by `Link.open`.

    Args:
        on_invalid: is called with the changed keys, prefix included; None: any key may have.
        on_lost: is called once, when the connection has ended.
    """

    def __init__(self, on_invalid: OnInvalid, on_lost: Callable[[], None]) -> None:
        self.server: dict[bytes, Any] = {}  # its reply to HELLO: version, mode, role
        self._on_invalid = on_invalid
        self._on_lost = on_lost
        self._nothing = object()
        self._parser = hiredis.Reader(replyError=Refused, notEnoughData=self._nothing)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(
        cls, node: Node, address: Address, on_invalid: OnInvalid, on_lost: Callable[[], None]
    ) -> Link:
        """Connects and says hello. There is no time limit but the caller's.

        Raises:
            LinkLost: there is no connection.
            Refused: the server refuses the login, or does not speak RESP3.
        """
        link = cls(on_invalid, on_lost)
        try:
            await connect(node, address, link)
        except OSError as error:
            raise LinkLost(f"{node} cannot be reached: {error.strerror or error}") from None
        try:
            login: tuple[str, ...] = ()
            if address.password is not None:
                login = ("AUTH", address.user or "default", address.password)
            link.server = await link.ask("HELLO", 3, *login, "SETNAME", "kvserve-follower")
        except BaseException:
            link.close()
            raise
        return link

    async def track(self, prefix: bytes) -> None:
        """Asks the server to push changes of all keys that begin with `prefix`.

        Raises:
            LinkLost, Refused: the server does not do so.
        """
        only = ("PREFIX", prefix) if prefix else ()
        await self.ask("CLIENT", "TRACKING", "ON", "BCAST", *only)

    def ask(self, *words: bytes | str | int) -> asyncio.Future[Any]:
        """The reply to a command; raises Refused if the server refuses it, or LinkLost."""
        answer = asyncio.get_running_loop().create_future()
        if self._transport is None:
            answer.set_exception(LinkLost("the connection has ended"))
        else:
            self._waiting.append(answer)
            self._transport.write(pack([words]))
        return answer

    def close(self) -> None:
        """Ends the connection, also during a call."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Called by the loop. An error in here ends the connection, so no message is skipped."""
        try:
            self._parser.feed(data)
            while (message := self._parser.gets()) is not self._nothing:
                self._take(message)
        except hiredis.ProtocolError as error:
            self._fail_all(Refused(f"this is not RESP: {error}"))
            self.close()
        except BaseException:
            self.close()
            raise

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the loop."""
        self._transport = None
        self._fail_all(LinkLost(f"the connection was lost: {error or 'closed by the server'}"))
        self._on_lost()

    def _fail_all(self, error: Exception) -> None:
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(error)

    def _take(self, message: Any) -> None:
        if isinstance(message, hiredis.PushNotification):
            if message[0] == _INVALIDATE:
                self._on_invalid(message[1])
            return
        answer = self._waiting.popleft()
        if answer.done():  # its caller was cancelled
            return
        if isinstance(message, Refused):
            answer.set_exception(message)
        else:
            answer.set_result(message)
