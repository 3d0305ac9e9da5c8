"""The contract of everything that carries requests. No carrier waits: its user polls.

So the blocking client, the asyncio client and the worker share one implementation of each carrier,
and wait in their own ways.
"""

from __future__ import annotations

from typing import Protocol

from kvserve.descriptors import Descriptor


class FrameSender(Protocol):
    """Takes whole frames, one after another."""

    @property
    def held_bytes(self) -> int:
        """The memory of frames that were taken and are not wholly written yet."""

    @property
    def descriptor(self) -> int:
        """What to poll for writing when `offer` or `flush` returned False."""

    def offer(self, frame: bytes, priority: int) -> bool:
        """Takes the frame if there is room at once; returns whether it did.

        Raises:
            OSError: no process can take it any more.
        """

    def flush(self) -> bool:
        """Goes on writing frames that were taken; returns whether all are written."""

    def close(self) -> None:
        """Gives the descriptor back. Twice does no harm."""

    @property
    def file(self) -> Descriptor:
        """The owner of the descriptor."""
