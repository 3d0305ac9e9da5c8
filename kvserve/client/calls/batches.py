"""Many operations in few frames: split by worker, cut to size, put together again. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvserve import limits
from kvserve.client.calls.call import Call, raise_combined, split_off_misrouted
from kvserve.client.calls.operations import Operation
from kvserve.errors import InternalError, KvserveError, ValueTooLarge, WrongWorker, from_wire
from kvserve.protocol import commands
from kvserve.protocol.messages import STATUS_DONE

_OPERATION_OVERHEAD_BYTES = 64


class Batch:
    """The operations of one call, on their way to several workers.

    Send its `calls`, let it `take` the answers, until it has no more calls. `begun` is whether any
    of them was answered.

    Args:
        operations: in the caller's order.
        shard_of: the shard of a key.
        workers: how many there are.
        frame_bytes_max: the longest frame.

    Raises:
        InvalidKey: one of the keys is invalid; nothing has been sent then.
    """

    def __init__(
        self,
        operations: list[Operation],
        shard_of: Callable[[Any], int],
        workers: int,
        frame_bytes_max: int,
    ) -> None:
        self.results: list[Any] = [None] * len(operations)
        self._frame_bytes_max = frame_bytes_max
        self._parts: list[_Part] = []
        self._asked: list[Call] = []
        self.begun = False
        self._distribute(list(enumerate(operations)), shard_of, workers)

    def _distribute(
        self,
        operations: list[tuple[int, Operation]],
        shard_of: Callable[[Any], int],
        workers: int,
    ) -> None:
        parts: dict[int, _Part] = {}
        for position, operation in operations:
            shard = shard_of(operation.key)
            part = parts.setdefault(shard % workers, _Part(shard, self._frame_bytes_max))
            part.add(position, operation)
        self._parts = list(parts.values())

    def split(self, shard_of: Callable[[Any], int], workers: int) -> None:
        """Splits what is left anew, because the workers have changed."""
        left = [each for part in self._parts for each in part.left()]
        left.sort(key=lambda each: each[0])
        self._distribute(left, shard_of, workers)

    def calls(self) -> list[Call]:
        """One for each worker that has something left to do; an empty list at the end."""
        self._parts = [part for part in self._parts if not part.finished]
        self._asked = [part.next_call() for part in self._parts]
        return self._asked

    def take(self, outcomes: list[Any]) -> bool:
        """Takes an answer, or an error as an object, for each call; raises as `raise_combined`.

        Returns:
            Whether some calls came to a wrong worker, so that `split` is needed.
        """
        # A value too long for a frame is its operation's error; that went alone, see `next_call`.
        outcomes = [
            [(outcome.wire_code, str(outcome))] if isinstance(outcome, ValueTooLarge) else outcome
            for outcome in outcomes
        ]
        asked, answered, misrouted = split_off_misrouted(self._asked, outcomes)
        raise_combined(asked, answered, begun=self.begun)
        self.begun = self.begun or bool(asked)
        for part, answers in zip(self._parts, outcomes, strict=True):
            if not isinstance(answers, WrongWorker):
                part.take(answers, self.results)
        return misrouted


class _Part:
    """The operations that one worker serves, in their order."""

    def __init__(self, shard: int, frame_bytes_max: int) -> None:
        self._shard = shard
        self._frame_bytes_max = frame_bytes_max
        self._operations: list[Operation] = []
        self._positions: list[int] = []
        self._done = 0
        self._chunk: list[Operation] = []

    def add(self, position: int, operation: Operation) -> None:
        self._positions.append(position)
        self._operations.append(operation)

    def left(self) -> list[tuple[int, Operation]]:
        """The operations that are not done yet, with their positions."""
        return list(zip(self._positions, self._operations, strict=True))[self._done :]

    @property
    def finished(self) -> bool:
        return self._done == len(self._operations)

    def next_call(self) -> Call:
        """As many operations as one frame takes."""
        self._chunk = []
        size_bytes = _OPERATION_OVERHEAD_BYTES
        for operation in self._operations[self._done :]:
            size_bytes += _OPERATION_OVERHEAD_BYTES + _size(operation)
            if self._chunk and size_bytes > self._frame_bytes_max:
                break
            if len(self._chunk) == limits.BATCH_OPERATIONS_MAX:
                break
            self._chunk.append(operation)
        arguments = [[operation.command.code, *operation.arguments] for operation in self._chunk]
        idempotent = all(operation.command.idempotent for operation in self._chunk)
        return Call(commands.BATCH, (arguments,), self._shard, idempotent)

    def take(self, answers: Any, results: list[Any]) -> None:
        """Puts the results of the last chunk, or of its beginning, into their places."""
        for result in _interpreted(self._chunk, answers):
            results[self._positions[self._done]] = result
            self._done += 1


def _size(operation: Operation) -> int:
    """The approximate size of an operation in a frame."""
    size_bytes = len(operation.key) * (4 if isinstance(operation.key, str) else 1)
    if operation.command in (commands.SET, commands.ADD, commands.REPLACE, commands.CAS):
        size_bytes += len(operation.arguments[2])
    return size_bytes


def _interpreted(operations: list[Operation], answers: Any) -> list[Any]:
    """The results of the operations that a batch's reply answers, errors among them as objects."""
    if type(answers) is not list or not 0 < len(answers) <= len(operations):
        raise InternalError("a batch was answered with something else")
    return [
        _result(operation, status, answer)
        for operation, (status, answer) in zip(operations, answers, strict=False)
    ]


def _result(operation: Operation, status: int, answer: Any) -> Any:
    if status != STATUS_DONE:
        return from_wire(status, str(answer))
    try:
        return operation.interpret(answer)
    except KvserveError as error:  # of this key alone
        return error
