"""A session with one worker, for one thread at a time: sends and waits by polling."""

from __future__ import annotations

import select
import time
from typing import Any

from kvserve import runtime
from kvserve.client.session import Session, WorkerGone
from kvserve.errors import RequestTimeout, ServerBusy
from kvserve.names import Names
from kvserve.protocol.commands import Command, Priority
from kvserve.protocol.messages import Reply
from kvserve.transport.base import FrameSender
from kvserve.transport.spinning import Spin

_FRESH_SECONDS = 0.001  # after a request was begun, none looks whether the worker is still there
_LOOK_SECONDS = 0.1  # how often one who waits for a hello looks whether anybody serves


class Channel:
    """An open session.

    Args:
        names: the instance's.
        session: new, not yet greeted.
        spin: how long it looks for a reply before it sleeps.
        deadline: until when the worker must have answered, on the monotonic clock.

    Raises:
        ServerUnavailable: nobody serves.
        ServerBusy: the worker's queue stayed full.
        RequestTimeout: it did not answer.
        WorkerGone: another server took this one's place meanwhile.
    """

    def __init__(self, names: Names, session: Session, spin: Spin, deadline: float) -> None:
        self.session = session
        self._spin = Spin(0)  # until the worker has opened its end, a mere look finds it gone
        self._looked = 0.0  # the deadline of the last request: all have the same time
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
        self._send(frame, sender, Priority.CONTROL, deadline)
        while True:
            look = min(deadline, time.monotonic() + _LOOK_SECONDS)
            try:
                self.receive(request_id, look).result()
                return
            except RequestTimeout:
                if runtime.holder(names) is None:
                    raise runtime.not_served(names) from None
                if self.session.is_superseded:
                    raise WorkerGone from None
                if time.monotonic() >= deadline:
                    raise

    def send(self, command: Command, arguments: tuple[Any, ...], deadline: float) -> int:
        """Sends a request; returns its id.

        Raises:
            ServerBusy: it was not taken before the deadline.
            WorkerGone: the worker is no more. It never began with this request.
        """
        self.look(deadline)
        request_id, frame, sender = self.session.request(command, arguments, deadline)
        self._send(frame, sender, command.priority, deadline)
        return request_id

    def look(self, deadline: float) -> None:
        """Drops late replies, for a request with this deadline. Raises WorkerGone if it is."""
        if deadline > self._looked + _FRESH_SECONDS:
            while self._poll.poll(0):
                self.session.replies()
        self._looked = deadline

    def _send(self, frame: bytes, sender: FrameSender, priority: int, deadline: float) -> None:
        while not sender.offer(frame, priority):
            self._await_room(sender, deadline)
        if sender.held_bytes:
            self._flush(sender, deadline)

    def _flush(self, sender: FrameSender, deadline: float) -> None:
        try:
            while not sender.flush():
                self._await_room(sender, deadline)
        except BaseException:
            self.close()  # a frame is half written: nothing can follow it
            raise

    def _await_room(self, sender: FrameSender, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ServerBusy("the worker took no request before the deadline; is it overloaded?")
        waiting = select.poll()
        waiting.register(sender.descriptor, select.POLLOUT)
        waiting.register(self.session.reply_descriptor, 0)  # its hang-up alone
        for descriptor, event in waiting.poll(left * 1000):
            if descriptor == self.session.reply_descriptor and event & select.POLLHUP:
                raise WorkerGone

    def receive(self, request_id: int, deadline: float) -> Reply:
        """Waits for the reply to a request. Replies that nobody awaits any more are dropped.

        Raises:
            RequestTimeout: it did not come before the deadline.
            WorkerGone: it will not come.
        """
        while True:
            replies = self._spin.until(self.session.replies)
            if not replies:
                left = deadline - time.monotonic()
                if not self._poll.poll(max(0.0, left * 1000)):
                    self._looked = 0.0  # its late reply is to be dropped
                    raise RequestTimeout("no reply before the deadline")
                replies = self.session.replies()
            for reply in replies:
                if reply.request_id == request_id:
                    return reply
                if reply.request_id == 0:
                    reply.result()  # raises: with this a worker ends a session

    def close(self) -> None:
        """Ends the session."""
        self.session.close()
