"""A session with one worker on an event loop: any number of requests under way at once."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from kvserve.client.session import (
    LOOK_SECONDS,
    NO_REPLY,
    NOT_TAKEN,
    Session,
    WorkerGone,
    hello_times,
    require_holder,
)
from kvserve.errors import KvserveError, RequestTimeout, ServerBusy
from kvserve.names import Names
from kvserve.objects import is_from_system
from kvserve.protocol.commands import Command, Priority
from kvserve.protocol.messages import Reply
from kvserve.transport.base import FrameSender


class AsyncChannel:
    """A session, which `greet` opens.

    A task that awaits a reply may be cancelled at any point: the reply is dropped when it comes,
    and a frame that is partly written is written to its end.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._loop_reference = weakref.ref(asyncio.get_running_loop())
        self._awaited: dict[int, asyncio.Future[Reply]] = {}
        self._room: dict[int, asyncio.Future[None]] = {}  # by descriptor: waits for room to write
        self._is_greeted = False

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it belongs to, and that knows it. It is not kept alive from here."""
        loop = self._loop_reference()
        assert loop is not None, "a request on a loop that is gone"
        return loop

    @property
    def gone(self) -> bool:
        """Whether the session has ended, or a fork made it another process's, like the loop."""
        return self._session.closed

    @property
    def is_open(self) -> bool:
        """Whether the worker has answered, and the session has not ended."""
        return self._is_greeted and not self.gone

    async def greet(self, names: Names, deadline: float) -> None:
        """Greets the worker. Raises as `blocking.channel.Channel` does; the session has ended then.

        From now on the event loop knows the session, and keeps it until `close`.
        """
        try:
            self._loop.add_reader(self._session.reply_descriptor, self._receive)
            await self._greet(names, deadline)
            self._is_greeted = True
        except BaseException:
            self.close()
            raise

    async def _greet(self, names: Names, deadline: float) -> None:
        request_id, frame, sender = self._session.hello(deadline)
        future = self._expect(request_id)
        times = hello_times(self._loop.time())
        due, is_sent = next(times), False
        while True:
            if self._loop.time() >= due and self._offer(frame, sender, Priority.CONTROL):
                due, is_sent = next(times), True
            left = deadline - self._loop.time()
            waited = future if is_sent else self._room_at(sender)
            if await self._await(waited, min(left, LOOK_SECONDS)) and is_sent:
                future.result().result()
                self._awaited.pop(request_id, None)  # it refers to the loop
                return
            if self.gone:
                raise NotBegun
            require_holder(names)
            if self._session.is_superseded:
                raise NotBegun
            if left <= 0:
                raise RequestTimeout(NO_REPLY) if is_sent else ServerBusy(NOT_TAKEN)

    async def ask(self, command: Command, arguments: tuple[Any, ...], deadline: float) -> Reply:
        """The reply to a request.

        Raises:
            ServerBusy: it was not taken before the deadline.
            RequestTimeout: the reply did not come before the deadline.
            NotBegun: the worker is gone, and never began with this request.
            WorkerGone: the worker is gone.
        """
        if self.gone:
            raise NotBegun
        try:
            request_id, frame, sender = self._session.request(command, arguments, deadline)
        except WorkerGone as error:
            self.close()
            raise NotBegun from error
        try:
            future = self._expect(request_id)
            await self._send(frame, sender, command.priority, deadline)
            if not await self._await(future, deadline - self._loop.time()):
                raise RequestTimeout(NO_REPLY)
            return future.result()
        finally:
            self._awaited.pop(request_id, None)

    def _expect(self, request_id: int) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._awaited[request_id] = future
        return future

    @staticmethod
    async def _await(future: asyncio.Future[Any], seconds: float) -> bool:
        """Waits for a future without cancelling it; returns whether it is done."""
        done, _ = await asyncio.wait([future], timeout=max(0.0, seconds))
        return bool(done)

    async def _send(
        self, frame: bytes, sender: FrameSender, priority: int, deadline: float
    ) -> None:
        while not self._offer(frame, sender, priority):
            if not await self._await(self._room_at(sender), deadline - self._loop.time()):
                raise ServerBusy(NOT_TAKEN)
            if self.gone:
                raise NotBegun

    def _offer(self, frame: bytes, sender: FrameSender, priority: int) -> bool:
        """Whether the carrier took the frame; what is left of it will be written later."""
        try:
            if not sender.offer(frame, priority):
                return False
            if not sender.flush():
                self._room_at(sender)
            return True
        except OSError as error:
            if not is_from_system(error):
                self.close()
                raise
            raise NotBegun from error
        except BaseException:
            self.close()
            raise

    def _room_at(self, sender: FrameSender) -> asyncio.Future[None]:
        """Done when the carrier may take something, or the worker is gone."""
        room = self._room.get(sender.descriptor)
        if room is None:
            room = self._room[sender.descriptor] = self._loop.create_future()
            self._loop.add_writer(sender.descriptor, self._write, sender)
        return room

    def _write(self, sender: FrameSender) -> None:
        try:
            if sender.flush():
                self._loop.remove_writer(sender.descriptor)
                room = self._room[sender.descriptor]
                if not room.done():
                    room.set_result(None)
                del self._room[sender.descriptor]
        except BaseException:  # a signal handler's: how much was written is not known
            self.close()
            raise

    def look(self) -> bool:
        """Takes what has come; returns whether the worker is still there."""
        self._receive()
        return not self.gone

    def _receive(self) -> None:
        try:
            for reply in self._session.replies():
                future = self._awaited.get(reply.request_id)
                if future is not None and not future.done():
                    future.set_result(reply)
                elif reply.request_id == 0:
                    reply.result()  # raises: with this a worker ends a session
        except WorkerGone:
            self.close()
        except KvserveError as error:
            self.close(error)
        except BaseException:  # a signal handler's: what was read of the stream is lost
            self.close()
            raise

    def close(self, error: KvserveError | None = None) -> None:
        """Ends the session; what is awaited fails, with WorkerGone if there is no other error.

        Twice does no harm. Where the loop was closed, nobody awaits anything any more.
        """
        if self.gone:
            return
        loop = self._loop_reference()
        if loop is None or loop.is_closed():
            self._room.clear()
            self._awaited.clear()
            self._session.close()
            return
        is_ours = self._session.is_ours  # else the loop may know the numbers as another's
        if is_ours:
            loop.remove_reader(self._session.reply_descriptor)
        for descriptor, room in self._room.items():
            if is_ours:
                loop.remove_writer(descriptor)
            if not room.done():
                room.set_result(None)
        self._room.clear()
        for request_id, future in self._awaited.items():
            if not future.done():
                ids = (self._session.client_id, request_id)
                future.set_exception(error or WorkerGone(ids))
                future.exception()  # perhaps no task awaits it any more
        self._awaited.clear()
        self._session.close()


class NotBegun(WorkerGone):
    """The worker is gone, and it cannot have begun with the request."""
