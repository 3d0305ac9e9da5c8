"""Replies on their way to clients that do not read as fast as they ask.

What a session's FIFO does not take is held here. A long reply is not even packed while its session,
or all of them together, have much to read: a value that a hundred clients wait for is held once,
even if it was read for each of them, and packed for each when its turn comes. A client that reads
nothing while others need the memory is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kvserve import limits
from kvserve.execution.budget import Budget
from kvserve.protocol.messages import Encoder, Reply
from kvserve.worker.frontends.session import Session

_NEVER_READS = "does not read its replies"
_TURNS = 8  # sessions to look at when one has read: the others come when they read


class _Shared:
    """The holder of the values that several sessions wait for."""

    def __init__(self) -> None:
        self.charged_bytes = 0
        self.is_open = True


class Replies:
    """The replies of one worker.

    Args:
        loop: the worker's.
        budget: where what is held is counted.
        close: ends a session that its client no longer reads from.
        cut_off: ends a session and says why.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        budget: Budget,
        close: Callable[[Session], None],
        cut_off: Callable[[Session, str], None],
    ) -> None:
        self._loop = loop
        self._budget = budget
        self._close = close
        self._cut_off = cut_off
        self._encoder = Encoder()
        self._holding: dict[Session, None] = {}  # those that have something to read
        self._delayed: dict[Session, None] = {}  # those with replies that are not packed yet
        self._values: dict[int, int] = {}  # of delayed replies: how many share each
        self._alike: dict[tuple[int, int], Any] = {}  # the same, by version and length
        self._shared = _Shared()  # the holder of values that sessions share
        self._held_bytes = 0  # of all, packed or not
        self._packed_bytes = 0
        self._refused = 0  # requests, as the budget counted them when it was looked at last

    def has_room(self, session: Session, sessions: int) -> bool:
        """Whether a client reads its replies fast enough to be served further requests.

        Called before a request is executed, so that a refusal can promise that nothing was
        changed. A client that goes on regardless is cut off.

        Args:
            session: the client's.
            sessions: how many there are.
        """
        held_bytes = session.held_bytes + session.delayed_bytes
        if held_bytes <= limits.REPLY_BUFFER_BYTES and (
            self._held_bytes <= limits.WORKER_REPLY_BYTES_SHORT
            or held_bytes * sessions < self._held_bytes  # others hold more
        ):
            session.refusals = 0
            return True
        session.refusals += 1
        if session.refusals > limits.REFUSALS_MAX:
            self._cut_off(session, _NEVER_READS)
        return False

    def send(self, session: Session, reply: Reply) -> None:
        """Sends a reply, or holds it back until the client reads; cuts off one that never does.

        Args:
            session: open.
            reply: for it.
        """
        if self._packed_bytes:
            size_bytes = _size_of(reply.answer)
            if session.delayed or not self._may_pack(session, size_bytes):
                self._delay(session, reply, size_bytes)
                return
        self._pack(session, reply)

    def _delay(self, session: Session, reply: Reply, size_bytes: int) -> None:
        """Keeps a reply for later. A value that several wait for is held and counted once."""
        reply = self._with_held_value(reply)
        session.delayed.append((reply, size_bytes))
        self._delayed[session] = None
        value = _value_of(reply.answer)
        shares = self._values.get(id(value), 0)
        self._values[id(value)] = shares + 1
        session.delayed_bytes += size_bytes
        self._hold(session, limits.ENTRY_OVERHEAD_BYTES)
        if not shares:
            self._hold_value(size_bytes)

    def _with_held_value(self, reply: Reply) -> Reply:
        """The reply, with the value of another waiting reply if that is the same."""
        if alike := _alike(reply.answer):
            codec, payload, version = reply.answer
            held = self._alike.setdefault(alike, payload)
            if held is not payload and held == payload:  # each shard counts its own versions
                return reply._replace(answer=(codec, held, version))
        return reply

    def _take_delayed(self, session: Session) -> Reply:
        """Takes out the next of a session's delayed replies."""
        reply, size_bytes = session.delayed.popleft()
        value = _value_of(reply.answer)
        shares = self._values.pop(id(value)) - 1
        session.delayed_bytes -= size_bytes
        self._hold(session, -limits.ENTRY_OVERHEAD_BYTES)
        if shares:
            self._values[id(value)] = shares
        else:
            if (alike := _alike(reply.answer)) and self._alike.get(alike) is value:
                del self._alike[alike]
            self._hold_value(-size_bytes)
        return reply

    def _hold_value(self, size_bytes: int) -> None:
        self._held_bytes += size_bytes
        self._budget.charge(self._shared, size_bytes)

    def _may_pack(self, session: Session, size_bytes: int) -> bool:
        """Whether a session may have this reply packed: it gets a quarter of what is free, so that
        shorter replies find room however many large ones are not read. The shortest always do."""
        room_bytes = max(self._budget.bytes_max // 2, limits.PACKED_BYTES_MIN)
        return (
            not self._packed_bytes
            or size_bytes <= limits.SHORT_REPLY_BYTES
            or session.replies.held_bytes + size_bytes
            <= (room_bytes - self._packed_bytes) // limits.ARRIVAL_FREE_SHARE
        )

    def _pack(self, session: Session, reply: Reply) -> None:
        held_bytes = session.replies.held_bytes
        try:
            taken = session.replies.offer(self._encoder.reply(session.client_id, reply))
        except OSError:
            self._close(session)
            return
        if not taken:
            self._cut_off(session, _NEVER_READS)
            return
        more_bytes = session.replies.held_bytes - held_bytes
        if more_bytes:
            if not session.waits_for_writing:
                session.waits_for_writing = True
                self._loop.add_writer(session.replies.descriptor, self._flush, session)
            self._packed_bytes += more_bytes
            self._hold(session, more_bytes)

    def _flush(self, session: Session) -> None:
        held_bytes = session.replies.held_bytes
        try:
            drained = session.replies.flush()
        except OSError:
            self._close(session)
            return
        less_bytes = held_bytes - session.replies.held_bytes
        self._packed_bytes -= less_bytes
        self._hold(session, -less_bytes)
        if drained:
            session.waits_for_writing = False
            self._loop.remove_writer(session.replies.descriptor)
        if self._delayed:
            self._go_on(session)

    def _hold(self, session: Session, size_bytes: int) -> None:
        """Counts what a session holds back; cuts off the largest if all hold too much."""
        session.held_bytes += size_bytes
        self._held_bytes += size_bytes
        self._budget.charge(session, size_bytes)
        if not session.held_bytes:
            self._holding.pop(session, None)
        elif session not in self._holding:
            self._holding[session] = None
            session.looked = self._loop.time()
            session.read_bytes = session.replies.written_bytes
        while self._holding and self._held_bytes > limits.WORKER_REPLY_BYTES_MAX:
            largest = max(self._holding, key=lambda each: each.held_bytes + each.delayed_bytes)
            self._cut_off(largest, "has most of too many replies to read")

    def _go_on(self, first: Session) -> None:
        """Packs what waited, for the session that has just read and for those in turn."""
        if first in self._delayed:
            self._pack_delayed(first)
        for _ in range(min(_TURNS, len(self._delayed))):
            session = next(iter(self._delayed))
            if not self._pack_delayed(session) and session in self._delayed:
                del self._delayed[session]
                self._delayed[session] = None  # behind the others

    def _pack_delayed(self, session: Session) -> bool:
        """Packs a session's delayed replies; returns whether all of them could be packed."""
        while session.delayed:
            if not self._may_pack(session, session.delayed[0][1]):
                return False
            self._pack(session, self._take_delayed(session))
        self._delayed.pop(session, None)
        return True

    def look(self) -> None:
        """Cuts off sessions that have not read for a while, if memory is short. Called often."""
        refused, self._refused = self._refused, self._budget.refused
        is_needed = self._budget.refused > refused or any(
            not session.replies.held_bytes for session in self._delayed
        )
        if not is_needed:
            return
        now = self._loop.time()
        for session in self._unread(now):
            self._cut_off(session, "does not read its replies while others wait")
        for session in list(self._delayed)[:_TURNS]:
            self._pack_delayed(session)

    def _unread(self, now: float) -> list[Session]:
        found = []
        for session in self._holding:
            if now - session.looked > limits.REPLY_LOOK_SECONDS:
                read_bytes = session.replies.written_bytes - session.read_bytes
                if read_bytes < min(limits.REPLY_BYTES_A_LOOK, session.replies.held_bytes):
                    found.append(session)
                session.looked = now
                session.read_bytes = session.replies.written_bytes
        return found

    @property
    def drained(self) -> bool:
        """Whether nothing is left to write."""
        return not self._holding

    def leave(self, session: Session) -> None:
        """Forgets a session that ends; before its FIFOs are closed."""
        self._packed_bytes -= session.replies.held_bytes
        self._delayed.pop(session, None)
        while session.delayed:
            self._take_delayed(session)
        if session.waits_for_writing:
            self._loop.remove_writer(session.replies.descriptor)
        self._hold(session, -session.held_bytes)


def _value_of(answer: Any) -> Any:
    """What several replies may share: the value that was read, or the whole answer."""
    return answer[1] if type(answer) is not list and isinstance(answer, tuple) else answer


def _alike(answer: Any) -> tuple[int, int] | None:
    """What all answers with one value of one key have in common: its version and length."""
    if isinstance(answer, tuple) and len(answer) == 3 and isinstance(answer[1], bytes):
        return answer[2], len(answer[1])
    return None


def _size_of(answer: Any) -> int:
    """About the bytes of an answer in a frame: those of its values."""
    if isinstance(answer, bytes):
        return len(answer)
    if isinstance(answer, (tuple, list)):
        return sum(map(_size_of, answer))
    return 8
