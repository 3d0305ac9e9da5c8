"""Many operations in few frames: split by worker, cut to size, put together again. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kvserve import limits
from kvserve.client.operations import Operation, batch_interpretation
from kvserve.protocol import commands

_OPERATION_OVERHEAD_BYTES = 64


class Part:
    """The operations of a batch that one worker serves, in their order.

    Args:
        shard: one of the worker's shards.
        frame_bytes_max: the longest frame.
    """

    def __init__(self, shard: int, frame_bytes_max: int) -> None:
        self.shard = shard
        self._frame_bytes_max = frame_bytes_max
        self._operations: list[Operation] = []
        self._positions: list[int] = []
        self._done = 0
        self._chunk: list[Operation] = []

    def add(self, position: int, operation: Operation) -> None:
        """Appends an operation, whose result belongs at this position of the whole."""
        self._positions.append(position)
        self._operations.append(operation)

    @property
    def finished(self) -> bool:
        """Whether every operation has its result."""
        return self._done == len(self._operations)

    def next_arguments(self) -> tuple[list[list[Any]]]:
        """The arguments of the next batch request: as many operations as one frame takes."""
        self._chunk = []
        size_bytes = _OPERATION_OVERHEAD_BYTES
        for operation in self._operations[self._done :]:
            size_bytes += _OPERATION_OVERHEAD_BYTES + _size(operation)
            if self._chunk and size_bytes > self._frame_bytes_max:
                break
            if len(self._chunk) == limits.BATCH_OPERATIONS_MAX:
                break
            self._chunk.append(operation)
        return ([[operation.command.code, *operation.arguments] for operation in self._chunk],)

    @property
    def idempotent(self) -> bool:
        """Whether the last chunk may be sent again."""
        return all(operation.command.idempotent for operation in self._chunk)

    def take(self, answers: Any, results: list[Any]) -> None:
        """Puts the results of the last chunk, or of its beginning, where they belong."""
        for result in batch_interpretation(self._chunk, answers):
            results[self._positions[self._done]] = result
            self._done += 1


def split(
    operations: Iterable[Operation],
    shard_of: Callable[[Any], int],
    workers: int,
    frame_bytes_max: int,
) -> list[Part]:
    """The parts of a batch, one a worker.

    Raises:
        InvalidKey: one of the keys is; nothing has been sent then.
    """
    parts: dict[int, Part] = {}
    for position, operation in enumerate(operations):
        shard = shard_of(operation.key)
        part = parts.get(shard % workers)
        if part is None:
            part = parts[shard % workers] = Part(shard, frame_bytes_max)
        part.add(position, operation)
    return list(parts.values())


def _size(operation: Operation) -> int:
    """About the bytes of an operation in a frame."""
    size_bytes = len(operation.key) * (4 if isinstance(operation.key, str) else 1)
    if operation.command in (commands.SET, commands.ADD, commands.REPLACE, commands.CAS):
        size_bytes += len(operation.arguments[2])
    return size_bytes
