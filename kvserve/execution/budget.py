"""How much memory the requests of a worker may take, and each session's share of it.

What a request takes is counted from when it is admitted until its reply is written: its arguments,
what executes it, its answer. A request that there is no room for is refused before anything of it
is done.

The shares follow dynamic thresholds (Choudhury and Hahne, 1998): a session may take as much as is
free beside it. So one alone has half of all, two have a third each, and however many take what
they can, there is some left for the next; nothing has to be set aside for sessions that are idle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from kvserve import limits
from kvserve.protocol import commands
from kvserve.protocol.messages import Request


class Holder(Protocol):
    """Anything that has a share: a session."""

    charged_bytes: int

    @property
    def is_open(self) -> bool:
        """Whether a client would read its replies."""


class Budget:
    """The memory of one worker's requests and replies.

    Args:
        bytes_max: how much there is. May be changed at any time.
        beside: returns what else is held of it, for the store.

    Example:
        >>> class Client:
        ...     charged_bytes, is_open = 0, True
        >>> budget, one, other = Budget(100), Client(), Client()
        >>> budget.take(one, 40), budget.take(one, 40), budget.take(other, 30)
        (True, False, True)
    """

    def __init__(self, bytes_max: int, beside: Callable[[], int] = lambda: 0) -> None:
        self.bytes_max = bytes_max
        self.beside = beside
        self.held_bytes = 0
        self.peak_bytes = 0  # since it was set to 0
        self.refused = 0

    @property
    def taken_bytes(self) -> int:
        """What is held of it."""
        return self.held_bytes + self.beside()

    @property
    def free_bytes(self) -> int:
        """What is left; 0 if more is held than should be."""
        return max(0, self.bytes_max - self.taken_bytes)

    def take(self, holder: Holder, size_bytes: int) -> bool:
        """Takes room, to be given back; returns whether there was any.

        An empty budget admits any size: a request that is too large would never be admitted
        otherwise.
        """
        if self.held_bytes and holder.charged_bytes + size_bytes > self.free_bytes:
            self.refused += 1
            return False
        self.charge(holder, size_bytes)
        return True

    def charge(self, holder: Holder, size_bytes: int) -> None:
        """Counts memory that is in use already. A negative size gives it back."""
        holder.charged_bytes += size_bytes
        self.held_bytes += size_bytes
        if self.held_bytes > self.peak_bytes:
            self.peak_bytes = self.held_bytes


class Allowance:
    """What one request was admitted for, and whether its answer is wanted.

    Args:
        budget: where its memory is counted.
        holder: its session.
        size_bytes: what was taken there.
    """

    def __init__(self, budget: Budget, holder: Holder, size_bytes: int) -> None:
        self._budget = budget
        self._holder = holder
        self._size_bytes = size_bytes

    @property
    def is_wanted(self) -> bool:
        """Whether a client waits for the answer."""
        return self._holder.is_open

    @property
    def free_bytes(self) -> int:
        """What the worker has left, for all its requests."""
        return self._budget.free_bytes

    def charge(self, size_bytes: int) -> None:
        """Counts what this request took beside what it was admitted for."""
        self._size_bytes += size_bytes
        self._budget.charge(self._holder, size_bytes)

    def give_back(self) -> None:
        """Gives all of it back: the request has ended."""
        self.charge(-self._size_bytes)


def size_of(request: Request, frame_bytes: int) -> int:
    """About the memory that a request takes while it is executed, in bytes.

    Args:
        request: with the frame's strings as its arguments.
        frame_bytes: the frame's length.
    """
    code = request.command.code
    if code == commands.BATCH.code or code in commands.SINGLE_OF:
        operations = len(request.arguments[0])
        return frame_bytes + limits.REQUEST_BYTES + operations * limits.OPERATION_BYTES
    return frame_bytes + limits.REQUEST_BYTES
