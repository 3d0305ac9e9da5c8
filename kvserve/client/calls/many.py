"""One command for many keys, in few frames: split by worker, cut to size, put together. No I/O.

A frame holds lists, not operations: that takes a quarter of what a batch of operations does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kvserve import limits
from kvserve.client.calls.call import Call, raise_combined, split_off_misrouted
from kvserve.client.calls.operations import Key
from kvserve.client.values import Decode
from kvserve.errors import InternalError, KvserveError, UnreadableValue, WrongWorker
from kvserve.protocol import commands
from kvserve.protocol.codec import BYTES, Value
from kvserve.protocol.commands import Command


class Many:
    """The keys of one call. Send its `calls`, let it `take` the answers, until it has none.

    `begun` is whether any of its calls was answered.

    Args:
        command: what to do with each key.
        frames: for each frame the worker that it is for, and its arguments.
    """

    def __init__(self, command: Command, frames: Iterable[tuple[int, tuple[Any, ...]]]) -> None:
        self._command = command
        self._waiting: dict[int, deque[tuple[Any, ...]]] = {}
        for worker, arguments in frames:
            self._waiting.setdefault(worker, deque()).append(arguments)
        self._asked: list[Call] = []
        self._open: list[Call] = []  # without an answer that says they are done
        self.begun = False

    def unconfirmed(self) -> list[Key]:
        """The keys of which nothing is known to be done."""
        frames = [call.arguments for call in self._open]
        for waiting in self._waiting.values():
            frames += waiting
        return [key for keys, *_ in frames for key in keys]

    def calls(self) -> list[Call]:
        """One for each worker that has something left to do; an empty list at the end."""
        self._asked = [
            Call(self._command, waiting.popleft(), worker, self._command.idempotent)
            for worker, waiting in self._waiting.items()
            if waiting
        ]
        self._open = self._asked
        return self._asked

    def take(self, outcomes: list[Any]) -> bool:
        """Takes an answer, or an error as an object, for each call; raises as `raise_combined`.

        Returns:
            Whether some calls came to a wrong worker, so that `split` is needed.
        """
        self._open = [
            call
            for call, outcome in zip(self._asked, outcomes, strict=True)
            if isinstance(outcome, KvserveError)
        ]
        asked, answered, misrouted = split_off_misrouted(self._asked, outcomes)
        raise_combined(asked, answered, begun=self.begun)
        self.begun = self.begun or bool(asked)
        self._open = []
        for call, answer in zip(self._asked, outcomes, strict=True):
            if isinstance(answer, WrongWorker):
                self._waiting[call.shard].appendleft(call.arguments)
            elif rest := self._take(call.arguments, answer):
                self._waiting[call.shard].appendleft((rest,))
        return misrouted

    def split(self, shard_of: Callable[[Key], int], workers: int) -> None:
        """Splits what is left anew, because the workers have changed."""
        frames = [arguments for waiting in self._waiting.values() for arguments in waiting]
        self._waiting = {}
        for keys, *columns in frames:
            indices: dict[int, list[int]] = {}
            for index, key in enumerate(keys):
                indices.setdefault(shard_of(key) % workers, []).append(index)
            for worker, chosen in indices.items():
                arguments = (
                    [keys[n] for n in chosen],
                    *(_chosen(each, chosen) for each in columns),
                )
                self._waiting.setdefault(worker, deque()).append(arguments)

    def _take(self, arguments: tuple[Any, ...], answer: Any) -> list[Key]:
        """Takes one answer; returns the keys that it left out."""
        raise NotImplementedError


def _chosen(column: Any, indices: list[int]) -> Any:
    """Some elements of an argument that has one for each key; any other argument itself."""
    if isinstance(column, bytes):
        return bytes(column[n] for n in indices)
    return [column[n] for n in indices] if isinstance(column, list) else column


class GetMany(Many):
    """Reads keys, which come in one list for each worker; `found` are the values of the hits.

    Args:
        by_worker: the keys.
        decode: returns the value of a codec and a payload.
    """

    def __init__(self, by_worker: list[list[Key]], decode: Decode) -> None:
        super().__init__(commands.GET_MANY, _frames_of_keys(by_worker))
        self._decode = decode
        self.found: dict[Key, Any] = {}

    def _take(self, arguments: tuple[Any, ...], answer: Any) -> list[Key]:
        keys: list[Key] = arguments[0]
        codec_ids, payloads = answer
        if not 0 < len(payloads) == len(codec_ids) <= len(keys):
            raise InternalError("a get_many was answered with something else")
        found, decode = self.found, self._decode
        for key, codec_id, payload in zip(keys, codec_ids, payloads, strict=False):
            if payload is None:
                continue
            try:
                found[key] = payload if codec_id == BYTES else decode(codec_id, payload, key)
            except UnreadableValue:
                continue  # left out, as `Reader.get_many` does
        return keys[len(payloads) :]


class SetMany(Many):
    """Stores items, whose keys come in one list for each worker.

    Args:
        by_worker: the keys.
        values: the items.
        encode: returns the codec and the payload of a value.
        ttl_ms: the ttl of all.
        frame_bytes_max: the longest frame.
    """

    def __init__(
        self,
        by_worker: list[list[Key]],
        values: Mapping[Key, Value],
        encode: Callable[[Value], tuple[int, bytes]],
        ttl_ms: int,
        frame_bytes_max: int,
    ) -> None:
        room_bytes = frame_bytes_max - limits.MANY_KEYS_BYTES
        frames = [
            (worker, (chunk, codec_ids, payloads, ttl_ms))
            for worker, keys in enumerate(by_worker)
            for chunk, codec_ids, payloads in _frames_of_items(keys, values, encode, room_bytes)
        ]
        super().__init__(commands.SET_MANY, frames)

    def _take(self, arguments: tuple[Any, ...], answer: Any) -> list[Key]:  # noqa: ARG002
        return []  # an answer means that all were stored


class DeleteMany(Many):
    """Removes keys, which come in one list for each worker; `count` is how many were there."""

    def __init__(self, by_worker: list[list[Key]]) -> None:
        super().__init__(commands.DELETE_MANY, _frames_of_keys(by_worker))
        self.count = 0

    def _take(self, arguments: tuple[Any, ...], answer: Any) -> list[Key]:  # noqa: ARG002
        self.count += answer
        return []


def _frames_of_keys(by_worker: list[list[Key]]) -> Iterator[tuple[int, tuple[list[Key]]]]:
    for worker, keys in enumerate(by_worker):
        for start in range(0, len(keys), limits.MANY_KEYS_MAX):
            yield worker, (keys[start : start + limits.MANY_KEYS_MAX],)


def _frames_of_items(
    keys: list[Key],
    values: Mapping[Key, Value],
    encode: Callable[[Value], tuple[int, bytes]],
    room_bytes: int,
) -> Iterator[tuple[list[Key], bytes, list[bytes]]]:
    """Keys, codecs and payloads, each as many as go into one frame."""
    codec_ids = bytearray()
    payloads: list[bytes] = []
    first = size_bytes = 0
    for position, key in enumerate(keys):
        codec_id, payload = encode(values[key])
        size_bytes += len(payload)
        if payloads and (size_bytes > room_bytes or len(payloads) == limits.MANY_KEYS_MAX):
            yield keys[first:position], bytes(codec_ids), payloads
            codec_ids, payloads = bytearray(), []
            first, size_bytes = position, len(payload)
        codec_ids.append(codec_id)
        payloads.append(payload)
    if payloads:
        yield keys[first:], bytes(codec_ids), payloads
