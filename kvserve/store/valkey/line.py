"""One connection to a server, for one exchange at a time: commands out, their replies in.

An asyncio protocol of our own over hiredis' parser: a stream reader, a lock and a timer for each
reply would cost more than the server's work. Unlike a `Link` it receives no push messages.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from kvserve.store.valkey.address import Address, Node
from kvserve.store.valkey.connect import connect
from kvserve.store.valkey.wire import Refused, Words, pack

Reply = Any  # as hiredis makes it; Refused where the server refused the command
_HUNG_UP = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class LineLost(Exception):
    """The connection ended, or could not be made. Never leaves the store."""


class Line(asyncio.Protocol):
    """See above; made by `Line.open`.

    Args:
        on_lost: is called once, when the connection has ended.
    """

    def __init__(self, on_lost: Callable[[Line], None]) -> None:
        self._on_lost = on_lost
        self._nothing = object()
        self._parser = hiredis.Reader(replyError=Refused, notEnoughData=self._nothing)
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._wanted = 0
        self._replies: list[Reply] = []
        self._done: Callable[[list[Reply] | Exception], None] | None = None

    @classmethod
    async def open(cls, node: Node, address: Address, on_lost: Callable[[Line], None]) -> Line:
        """Connects and logs in. There is no time limit but the caller's.

        Raises:
            LineLost: there is no connection.
            Refused: the server refuses the login.
        """
        line = cls(on_lost)
        try:
            await connect(node, address, line)
            for reply in await line.exchange(_greeting(address)):
                if isinstance(reply, Refused):
                    raise reply
        except OSError as error:
            raise LineLost(str(error)) from None
        except BaseException:
            line.close()
            raise
        return line

    @property
    def is_up(self) -> bool:
        """Whether the connection is up, as far as can be known without asking the server."""
        return self._transport is not None and not self._poll.poll(0)

    def exchange(self, commands: Sequence[Words]) -> asyncio.Future[list[Reply]]:
        """The replies to commands, in order; raises LineLost.

        One exchange at a time. After an abandoned exchange the line must be closed: its replies
        would be taken for those of the next.
        """
        answer: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()

        def done(outcome: list[Reply] | Exception) -> None:
            if answer.done():
                return
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        self.send(commands, done)
        return answer

    def send(
        self, commands: Sequence[Words], done: Callable[[list[Reply] | Exception], None]
    ) -> None:
        """As `exchange`, but calls `done` with the replies, or the error, as soon as they come,
        without a turn of the loop in between."""
        if self._transport is None:
            done(LineLost("the connection was lost"))
            return
        self._done, self._wanted, self._replies = done, len(commands), []
        self._transport.write(pack(commands))

    def give_up(self, error: Exception) -> None:
        """Ends the exchange that is under way with an error."""
        done, self._done = self._done, None
        if done is not None:
            done(error)

    def close(self) -> None:
        """Ends the connection, also during an exchange."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._poll.register(transport.get_extra_info("socket").fileno(), _HUNG_UP)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not self._nothing:
                self._replies.append(reply)
        except hiredis.ProtocolError as error:
            self.give_up(LineLost(f"this is not RESP: {error}"))
            self.close()
            return
        if len(self._replies) == self._wanted and self._done is not None:
            done, self._done = self._done, None
            done(self._replies)
        elif len(self._replies) > self._wanted:  # more replies than commands
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the loop."""
        self._transport = None
        self.give_up(LineLost(f"the connection was lost: {error or 'closed by the server'}"))
        self._on_lost(self)


def _greeting(address: Address) -> list[Words]:
    words: list[Words] = []
    if address.password is not None:
        words.append(("AUTH", address.user or "default", address.password))
    # The name shows operators whose connection it is; a refused login fails here, at once.
    words.append(("CLIENT", "SETNAME", "kvserve"))
    if address.database:
        words.append(("SELECT", address.database))
    return words
