"""A client's way into the table, through its process's slot: shared by both kinds of client."""

from __future__ import annotations

import mmap
from typing import Any, NamedTuple

from kvserve.client.calls.operations import Operation
from kvserve.client.writer.slot import WriterSlot, enter, leave_unused
from kvserve.execution.executor import Executor, out_of_range
from kvserve.live.applying import from_page
from kvserve.live.settings import VERSION_AT
from kvserve.names import Names
from kvserve.protocol.commands import Command
from kvserve.table._core import Writer


class Settings(NamedTuple):
    """What a writer must know, as `TrustedWriter._use_writer` takes it.

    Args:
        writer: the Writer that executes the changes.
        page: of the live settings.
        version_at: the place of 8 bytes that differ from `version` when any of this has changed.
        version: of the live settings.
        default_ttl_ms: the ttl of what is written without one; 0: for ever.
        value_bytes_max: the largest value now.
    """

    writer: Writer
    page: mmap.mmap
    version_at: int
    version: int
    default_ttl_ms: int
    value_bytes_max: int


class DirectTable:
    """Executes operations in the table, as the live settings say. Call `enter` first.

    Args:
        names: the instance's.
        wait_seconds: how long an operation may wait for a lock; 0: only for a dead process's.
    """

    settings: Settings

    def __init__(self, names: Names, wait_seconds: float) -> None:
        self._names = names
        self._wait_ms = int(wait_seconds * 1000)
        self._slot: WriterSlot | None = None
        self.needs_slot = False

    @property
    def is_current(self) -> bool:
        """Whether there is a slot, and the settings are those in force."""
        slot = self._slot
        return slot is not None and slot.is_taken and slot.page.version == self.settings.version

    def enter(self) -> None:
        """Takes the process's slot, and the settings in force. Raises as `slot.enter`."""
        self.needs_slot = True
        slot = enter(self._names, self)
        found = slot.page.read()
        config = from_page(found.values)
        writer = Writer()
        writer._borrow(slot, self._wait_ms)
        self._executor = Executor(writer, range(0), stats=dict)
        self._executor.configure(config)
        self.settings = Settings(
            writer,
            slot.page.memory,
            VERSION_AT,
            found.version,
            self._executor.life_ms(0),
            config.max_value,
        )
        self._slot = slot

    def leave(self) -> None:
        """Lets go of the slot."""
        self.needs_slot = False
        leave_unused()
        self._slot = None

    def execute(self, operation: Operation) -> Any:
        """The result of an operation.

        Raises:
            ServerBusy: a lock was not got in time, or (LeaseLost) the slot is lost: take another.
            MisuseError: as the operation's command says.
        """
        return operation.interpret(self.answer(operation.command, operation.arguments))

    def answer(self, command: Command, arguments: tuple[Any, ...]) -> Any:
        """The answer to a request, as a worker would return it. Raises as `execute`."""
        try:
            return self._executor.execute(command.code, arguments)
        except (OverflowError, IndexError) as error:
            raise out_of_range(error) from None
