"""The connections to one server: sends commands, and says whether they may have been executed.

The border to redis-py, whose connections and pools are used: its errors end here. Its clients are
not, since they send a command again after a lost connection, or cannot tell a command that was
never sent from one whose reply was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio.connection import (
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import (
    BusyLoadingError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from kvserve.store.valkey_address import Address, Node
from kvserve.store.valkey_wire import Words, pack

_CONNECTIONS_MAX = 16  # a worker's, to one server; calls beyond them wait for one

Reply = Any  # what redis-py makes of a reply; a ResponseError where the server refused the command


class NotSent(Exception):
    """Nothing was executed. Never leaves the store, like the next."""


class NoAnswer(Exception):
    """What was sent may have been executed, or not."""


class Pool:
    """The connections to one server, opened when they are needed.

    Args:
        node: which.
        address: how one is let in.
    """

    def __init__(self, node: Node, address: Address) -> None:
        self._node = node
        self._room = asyncio.Semaphore(_CONNECTIONS_MAX)
        self._calls = 0
        # No timeouts of redis-py's: one deadline is for all that a call has to wait for. And no
        # retries, of connections neither: a dead server is noticed at once.
        options: dict[str, Any] = {
            "db": address.database,
            "username": address.user,
            "password": address.password,
            "protocol": 2,
            # Named, so that operators know it, and one who is not let in learns it at once.
            "client_name": "kvserve",
            "socket_timeout": None,
            "socket_connect_timeout": None,
        }
        if not node.port:
            options |= {"connection_class": UnixDomainSocketConnection, "path": node.host}
        else:
            options |= {"connection_class": Connection, "host": node.host, "port": node.port}
        if address.is_tls:
            options |= {"connection_class": SSLConnection, "ssl_ca_certs": address.ca_file}
            options |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        self._pool = ConnectionPool(max_connections=_CONNECTIONS_MAX, **options)

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way."""
        return self._calls == 0

    async def exchange(self, commands: Sequence[Words], deadline: float) -> list[Reply]:
        """Sends commands together, over one connection; their replies, in order.

        Args:
            commands: at least one.
            deadline: on the loop's clock.

        Raises:
            NotSent: none of them was executed.
            NoAnswer: some may have been.
        """
        self._calls += 1
        is_sent = False
        try:
            async with asyncio.timeout_at(deadline), self._room, self._connection() as connection:
                is_sent = True
                await connection.send_packed_command(pack(commands))
                replies = [await _reply(connection) for _ in commands]
                if any(isinstance(reply, ReadOnlyError) for reply in replies):
                    # It was demoted, and its name may be another server's by now.
                    await connection.disconnect(nowait=True)
                return replies
        except TimeoutError:
            raise self._failure(is_sent, "did not answer in time") from None
        except BusyLoadingError:
            # A later command of the same call may have found it ready.
            text = "is still reading its data from disk"
            raise self._failure(is_sent and len(commands) > 1, text) from None
        except (RedisError, OSError) as error:
            raise self._failure(is_sent, f"cannot be used: {str(error).rstrip('.')}") from None
        finally:
            self._calls -= 1

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        # One that the server closed meanwhile is noticed, and opened again, in here. One whose
        # replies were not all read, for an error or for being cancelled, redis-py has closed.
        get: Callable[[], Awaitable[Connection]] = self._pool.get_connection
        connection = await get()
        try:
            yield connection
        finally:
            await self._pool.release(connection)

    def _failure(self, may_be_done: bool, text: str) -> Exception:
        return (NoAnswer if may_be_done else NotSent)(f"{self._node} {text}")

    async def close(self) -> None:
        """Closes the connections, also those in use."""
        await self._pool.disconnect()


async def _reply(connection: Connection) -> Reply:
    try:
        return await connection.read_response()
    except ResponseError as error:  # an answer, too
        return error
