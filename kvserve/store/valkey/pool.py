"""Sends commands to one server over a pool of connections; an error says if they may have run."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from kvserve.store.valkey.address import Address, Node
from kvserve.store.valkey.line import Line, LineLost, Reply
from kvserve.store.valkey.wire import Refused, Words

CONNECTIONS_MAX = 16  # of a worker to one server; further calls wait for one
_AT_ONCE_MAX = 4  # connections in use; beyond that calls are collected and sent together


class NotSent(Exception):
    """Nothing was executed. Never leaves the store, like `NoAnswer`."""


class NoAnswer(Exception):
    """The commands were sent and may have been executed, or not."""


class Pool:
    """The connections to one server, opened when they are needed.

    Args:
        node: the server.
        address: how to log in.
    """

    def __init__(self, node: Node, address: Address) -> None:
        self._node = node
        self._address = address
        self._idle: list[Line] = []  # the last used is used first
        self._lines: set[Line] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[Line | None]] = deque()
        self._calls = 0
        # One timer, set for the earliest deadline, watches all: a timer for each would cost more
        # than the rest of an exchange, and almost none is ever late.
        self._busy: dict[Line, float] = {}  # the deadline of each exchange
        self._watch: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way."""
        return self._calls == 0

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._lines)

    async def exchange(self, commands: Sequence[Words], deadline: float) -> list[Reply]:
        """Sends commands together over one connection; returns their replies, in order.

        Args:
            commands: at least one.
            deadline: on the loop's clock.

        Raises:
            NotSent: none of them was executed.
            NoAnswer: some may have been.
        """
        self._calls += 1
        try:
            line = (None if self._waiting else self._take()) or await self._wait(deadline)
            answer = line.exchange(commands)
            self._watch_over(line, deadline)
            try:
                replies = await answer
            except BaseException:
                line.close()
                raise
            finally:
                del self._busy[line]
            self._give_back(line, replies)
            return replies
        except TimeoutError:
            raise NoAnswer(f"{self._node} did not answer in time") from None
        except LineLost as error:
            raise NoAnswer(f"{self._node} cannot be used: {error}") from None
        finally:
            self._calls -= 1

    def send_at_once(
        self,
        commands: Sequence[Words],
        deadline: float,
        done: Callable[[list[Reply] | NoAnswer], None],
    ) -> bool:
        """As `exchange`, if a connection is idle: sends now, and calls `done` as soon as the
        replies have come. Returns False, and does nothing, if none is idle or many are in use:
        calls are better sent together then."""
        if self._waiting or len(self._busy) >= _AT_ONCE_MAX or (line := self._take()) is None:
            return False
        self._calls += 1

        def received(outcome: list[Reply] | Exception) -> None:
            self._calls -= 1
            self._busy.pop(line, None)
            if not isinstance(outcome, Exception):
                self._give_back(line, outcome)
                done(outcome)
                return
            line.close()
            is_late = isinstance(outcome, TimeoutError)
            text = "did not answer in time" if is_late else f"cannot be used: {outcome}"
            done(NoAnswer(f"{self._node} {text}"))

        self._watch_over(line, deadline)
        line.send(commands, received)
        return True

    def _watch_over(self, line: Line, deadline: float) -> None:
        self._busy[line] = deadline
        if self._watch is None or deadline < self._watch.when():
            if self._watch is not None:
                self._watch.cancel()
            self._watch = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _take(self) -> Line | None:
        """An idle connection that is still up; drops those that are not."""
        while self._idle:
            line = self._idle.pop()
            if line.is_up:
                return line
            line.close()
            self._lines.discard(line)
        return None

    async def _wait(self, deadline: float) -> Line:
        """A new connection, or one that another call gives back if there may be no more."""
        try:
            async with asyncio.timeout_at(deadline):
                if len(self._lines) + self._opening >= CONNECTIONS_MAX:
                    line = await self._wait_for_one()
                    if line is not None:
                        return line
                return await self._open()
        except TimeoutError:
            raise NotSent(f"{self._node} did not answer in time") from None
        except (LineLost, Refused) as error:
            raise NotSent(f"{self._node} cannot be used: {str(error).rstrip('.')}") from None

    async def _wait_for_one(self) -> Line | None:
        turn: asyncio.Future[Line | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # pass it to the next waiting call
                self._hand_on(turn.result())
            raise

    async def _open(self) -> Line:
        self._opening += 1
        try:
            line = await Line.open(self._node, self._address, self._forget)
        except BaseException:
            self._hand_on(None)
            raise
        finally:
            self._opening -= 1
        self._lines.add(line)
        return line

    def _give_back(self, line: Line, replies: list[Reply]) -> None:
        for reply in replies:
            if isinstance(reply, Refused) and reply.code == "READONLY":
                # It was demoted, and its name may belong to another server by now.
                line.close()
                return
        self._hand_on(line)

    def _hand_on(self, line: Line | None) -> None:
        """Gives a connection, or the right to open one, to the call that waits longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(line)
                return
        if line is not None:
            self._idle.append(line)

    def _forget(self, line: Line) -> None:
        if line in self._lines:
            self._lines.discard(line)
            if line in self._idle:
                self._idle.remove(line)
            self._hand_on(None)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for line, deadline in list(self._busy.items()):
            if deadline <= now:
                line.give_up(TimeoutError())
        later = [deadline for deadline in self._busy.values() if deadline > now]
        self._watch = loop.call_at(min(later), self._expire) if later else None

    async def close(self) -> None:
        """Closes the connections, also those in use."""
        if self._watch is not None:
            self._watch.cancel()
        while self._lines:
            for line in list(self._lines):
                line.close()
            await asyncio.sleep(0)  # the loop ends them in its next turn
