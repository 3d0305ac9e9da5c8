"""A client's way into the table, through its process's seat: shared by both kinds of client."""

from __future__ import annotations

import mmap
from typing import Any, NamedTuple

from kvserve.client.calls.operations import Operation
from kvserve.client.writer.slot import Seat, enter, leave_unused
from kvserve.execution.executor import Executor, out_of_range
from kvserve.live.applying import from_page
from kvserve.live.settings import VERSION_AT
from kvserve.names import Names
from kvserve.protocol.commands import Command
from kvserve.table._core import Writer


class Settings(NamedTuple):
    """What a writer must know, as `TrustedWriter._take_hand` takes it.

    Args:
        hand: what it writes with.
        page: of the live settings.
        version_at: where the 8 bytes are that differ from `version` when any of this has changed.
        version: of the live settings.
        default_ttl_ms: of what is written without a ttl; 0 for ever.
        value_bytes_max: the largest value now.
    """

    hand: Writer
    page: mmap.mmap
    version_at: int
    version: int
    default_ttl_ms: int
    value_bytes_max: int


class DirectTable:
    """Executes operations in the table, as the live settings say. `enter` comes first.

    Args:
        names: the instance's.
        wait_seconds: how long an operation may wait for a lock; 0: for a dead process's alone.
    """

    settings: Settings

    def __init__(self, names: Names, wait_seconds: float) -> None:
        self._names = names
        self._wait_ms = int(wait_seconds * 1000)
        self._seat: Seat | None = None
        self.needs_seat = False

    @property
    def is_current(self) -> bool:
        """Whether there is a seat, and the settings are those in force."""
        seat = self._seat
        return seat is not None and seat.is_taken and seat.page.version == self.settings.version

    def enter(self) -> None:
        """Takes the process's seat, and the settings in force. Raises as `seats.enter`."""
        self.needs_seat = True
        seat = enter(self._names, self)
        found = seat.page.read()
        config = from_page(found.values)
        hand = Writer()
        hand._borrow(seat, self._wait_ms)
        self._executor = Executor(hand, range(0), stats=dict)
        self._executor.configure(config)
        self.settings = Settings(
            hand,
            seat.page.memory,
            VERSION_AT,
            found.version,
            self._executor.life_ms(0),
            config.max_value,
        )
        self._seat = seat

    def leave(self) -> None:
        """Lets go of the seat."""
        self.needs_seat = False
        leave_unused()
        self._seat = None

    def execute(self, operation: Operation) -> Any:
        """The result of an operation.

        Raises:
            ServerBusy: a lock was not got in time, or (LeaseLost) the seat is lost: take another.
            MisuseError: as the operation's command says.
        """
        return operation.interpret(self.answer(operation.command, operation.arguments))

    def answer(self, command: Command, arguments: tuple[Any, ...]) -> Any:
        """The answer to a request, as a worker would give it. Raises as `execute`."""
        try:
            return self._executor.execute(command.code, arguments)
        except (OverflowError, IndexError) as error:
            raise out_of_range(error) from None
