"""A session with one worker, for one thread at a time: sends and waits by polling."""

from __future__ import annotations

import select
import time
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
from kvserve.errors import RequestTimeout, ServerBusy
from kvserve.names import Names
from kvserve.objects import is_from_system
from kvserve.protocol.commands import Command, Priority
from kvserve.protocol.messages import Reply
from kvserve.transport.base import FrameSender
from kvserve.transport.spinning import Spin

_FRESH_SECONDS = 0.001  # after a look, the worker is not checked again for this long


class Channel:
    """An open session.

    Args:
        names: the instance's.
        session: new, not yet greeted.
        spin: how long it looks for a reply before it sleeps.
        deadline: until when the worker must have answered, on the monotonic clock.

    Raises:
        ServerUnavailable: no server runs.
        ServerBusy: the worker's queue stayed full.
        RequestTimeout: it did not answer.
        WorkerGone: another server took this one's place meanwhile.
    """

    def __init__(self, names: Names, session: Session, spin: Spin, deadline: float) -> None:
        self.session = session
        self._spin = Spin(0)  # until the worker has opened its end, a mere look finds it gone
        self._looked = 0.0  # when, on the monotonic clock
        self._poll = select.poll()
        self._poll.register(session.reply_descriptor, select.POLLIN)
        try:
            self._greet(names, deadline)
        except BaseException:
            self.close()
            raise
        self._spin = spin

    def _greet(self, names: Names, deadline: float) -> None:
        request_id, frame, sender = self.session.hello(deadline)
        times = hello_times(time.monotonic())
        due, is_sent = next(times), False
        while True:
            look = min(deadline, time.monotonic() + LOOK_SECONDS)
            if time.monotonic() >= due and self._offer(frame, sender, Priority.CONTROL):
                due, is_sent = next(times), True
            if not is_sent:
                self._has_room(sender, look)
            elif reply := self._reply(request_id, look):
                reply.result()
                return
            require_holder(names)
            if self.session.is_superseded:
                raise WorkerGone
            if time.monotonic() >= deadline:
                raise RequestTimeout(NO_REPLY) if is_sent else ServerBusy(NOT_TAKEN)

    def send(self, command: Command, arguments: tuple[Any, ...], deadline: float) -> int:
        """Sends a request; returns its id.

        Raises:
            ServerBusy: it was not taken before the deadline.
            WorkerGone: the worker is gone. It never began with this request.
        """
        self.look()
        request_id, frame, sender = self.session.request(command, arguments, deadline)
        self._send(frame, sender, command.priority, deadline)
        return request_id

    def look(self) -> None:
        """Drops late replies, unless just done. Raises WorkerGone if the worker is gone."""
        now = time.monotonic()
        if now > self._looked + _FRESH_SECONDS:
            while self._poll.poll(0):
                self.session.replies()
        self._looked = now

    def _send(self, frame: bytes, sender: FrameSender, priority: int, deadline: float) -> None:
        while not self._offer(frame, sender, priority):
            if not self._has_room(sender, deadline):
                raise ServerBusy(NOT_TAKEN)
        if sender.held_bytes:
            self._flush(sender, deadline)

    def _offer(self, frame: bytes, sender: FrameSender, priority: int) -> bool:
        try:
            return sender.offer(frame, priority)
        except OSError as error:  # the descriptor was closed
            if not is_from_system(error):
                raise
            raise WorkerGone from error

    def _flush(self, sender: FrameSender, deadline: float) -> None:
        try:
            while not sender.flush():
                if not self._has_room(sender, deadline):
                    raise ServerBusy(NOT_TAKEN)
        except BaseException:
            self.close()  # a frame is half written: nothing can follow it
            raise

    def _has_room(self, sender: FrameSender, deadline: float) -> bool:
        """Waits for room; returns whether there is some before the deadline. Raises WorkerGone if
        there never will be, or the error with which the worker ended the session."""
        waiting = select.poll()
        waiting.register(sender.descriptor, select.POLLOUT)
        waiting.register(self.session.reply_descriptor, 0)  # its hang-up alone
        left = deadline - time.monotonic()
        found = waiting.poll(left * 1000) if left > 0 else []
        for descriptor, event in found:
            if descriptor == self.session.reply_descriptor and event:
                while True:  # until there are no more, which raises
                    for reply in self.session.replies():
                        if reply.request_id == 0:
                            reply.result()
        return bool(found)

    def receive(self, request_id: int, deadline: float) -> Reply:
        """Waits for the reply to a request. Replies that are no longer awaited are dropped.

        Raises:
            RequestTimeout: it did not come before the deadline.
            WorkerGone: it will not come.
        """
        reply = self._reply(request_id, deadline)
        if reply is None:
            raise RequestTimeout(NO_REPLY)
        return reply

    def _reply(self, request_id: int, deadline: float) -> Reply | None:
        while True:
            replies = self._spin.until(self.session.replies)
            if not replies:
                left = deadline - time.monotonic()
                if not self._poll.poll(max(0.0, left * 1000)):
                    self._looked = 0.0  # its late reply is to be dropped
                    return None
                replies = self.session.replies()
            for reply in replies:
                if reply.request_id == request_id:
                    return reply
                if reply.request_id == 0:
                    reply.result()  # raises: with this a worker ends a session

    def close(self) -> None:
        """Ends the session."""
        self.session.close()
