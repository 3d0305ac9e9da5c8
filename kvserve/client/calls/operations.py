"""The request that each method of a client sends to a worker, and how its answer is read. No I/O.

Arguments are checked here, before anything is sent. Both clients and both pipelines share this.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from kvserve import limits
from kvserve.client.calls.call import Call
from kvserve.errors import (
    InternalError,
    InvalidArgument,
    InvalidTTL,
    UnreadableValue,
    ValueTooLarge,
    from_wire,
)
from kvserve.protocol import codec, commands
from kvserve.protocol.codec import Value
from kvserve.protocol.commands import Command
from kvserve.protocol.messages import STATUS_DONE

Key = str | bytes
AnyKey = TypeVar("AnyKey", bound=Key)  # a dict[bytes, X] is no Mapping[Key, X]
TTL = float | datetime.timedelta | None
Tags = Iterable[str]


class Operation(NamedTuple):
    """A command with its arguments, and how to read the answer."""

    command: Command
    arguments: tuple[Any, ...]
    interpret: Callable[[Any], Any]

    @property
    def key(self) -> Key:
        """The key that the operation is about; it decides which worker serves it."""
        key: Key = self.arguments[0]
        return key

    def call(self, shard_of: Callable[[Key], int]) -> Call:
        """The request that carries it alone."""
        return Call(self.command, self.arguments, shard_of(self.key), self.command.idempotent)


def to_ttl_ms(ttl: TTL) -> int:
    """Whole milliseconds of a time to live, at least one: 0 would stand for the server's default.

    Args:
        ttl: seconds as a number, or a timedelta; `math.inf` never expires. None is 0, and means
            the server's `default_ttl`, which is never unless it is configured.

    Raises:
        InvalidTTL: not positive, not a number, or longer than a century.

    Example:
        >>> to_ttl_ms(1.5), to_ttl_ms(None), to_ttl_ms(datetime.timedelta(minutes=1))
        (1500, 0, 60000)
    """
    if ttl is None:
        return 0
    seconds = ttl.total_seconds() if isinstance(ttl, datetime.timedelta) else ttl
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidTTL(f"ttl is seconds or a timedelta, not {type(ttl).__name__}")
    if seconds == math.inf:
        return limits.TTL_MS_MAX  # to a worker the longest ttl means never
    if not 0 < seconds <= limits.TTL_MS_MAX / 1000:  # also False for nan
        raise InvalidTTL(f"ttl = {ttl}: use more than 0 and at most a century, or math.inf")
    return max(1, round(seconds * 1000))


def from_ttl_ms(ttl_ms: int | None) -> float | None:
    """Seconds of an answer: infinity for a key that never expires, None for a missing one."""
    if ttl_ms is None:
        return None
    return ttl_ms / 1000 if ttl_ms else math.inf


def value_of(key: Key, answer: Any, default: Any) -> Any:
    """The value in the answer to a get. Raises UnreadableValue."""
    return default if answer is None else codec.decode(answer[0], answer[1], key)


class Operations:
    """Makes operations for an instance.

    Args:
        value_bytes_max: its largest value, in bytes.
    """

    def __init__(self, value_bytes_max: int) -> None:
        self.value_bytes_max = value_bytes_max

    def get(self, key: Key, default: Any = None) -> Operation:
        return Operation(commands.GET, (key,), lambda answer: value_of(key, answer, default))

    def gets(self, key: Key, default: Any = None) -> Operation:
        def interpret(answer: Any) -> tuple[Any, int | None]:
            if answer is None:
                return default, None
            return codec.decode(answer[0], answer[1], key), answer[2]

        return Operation(commands.GET, (key,), interpret)

    def ttl(self, key: Key) -> Operation:
        return Operation(commands.TTL, (key,), from_ttl_ms)

    def set(self, key: Key, value: Value, ttl: TTL = None, *, marks: bytes = b"") -> Operation:
        arguments = self.stored(key, value, ttl, marks)
        return Operation(commands.SET, arguments, int)

    def stored(
        self, key: Key, value: Value, ttl: TTL, marks: bytes = b""
    ) -> tuple[Key, int, bytes, int]:
        """The arguments of a command that stores a value, which begins with its tags' marks."""
        codec_id, payload = codec.encode(value)
        if marks:
            codec_id, payload = codec_id | codec.TAGGED, marks + payload
        if len(payload) > self.value_bytes_max:
            raise self._too_large(payload)
        return key, codec_id, payload, 0 if ttl is None else to_ttl_ms(ttl)

    def encode(self, value: Value) -> tuple[int, bytes]:
        """The codec and the payload of a value that may be stored."""
        codec_id, payload = codec.encode(value)
        if len(payload) > self.value_bytes_max:
            raise self._too_large(payload)
        return codec_id, payload

    def _too_large(self, payload: bytes) -> ValueTooLarge:
        return ValueTooLarge(
            f"a value of {len(payload)} bytes; at most {self.value_bytes_max} are allowed here"
        )

    def add(self, key: Key, value: Value, ttl: TTL = None, *, marks: bytes = b"") -> Operation:
        arguments = self.stored(key, value, ttl, marks)
        return Operation(commands.ADD, arguments, bool)

    def replace(self, key: Key, value: Value, ttl: TTL = None, *, marks: bytes = b"") -> Operation:
        arguments = self.stored(key, value, ttl, marks)
        return Operation(commands.REPLACE, arguments, bool)

    def cas(
        self, key: Key, value: Value, version: int, ttl: TTL = None, *, marks: bytes = b""
    ) -> Operation:
        arguments = (*self.stored(key, value, ttl, marks), check_version(version))
        return Operation(commands.CAS, arguments, bool)

    def delete(self, key: Key, version: int | None = None) -> Operation:
        if version is None:
            return Operation(commands.DELETE, (key,), bool)
        return Operation(commands.DELETE_VERSION, (key, check_version(version)), bool)

    def touch(self, key: Key, ttl: TTL = None) -> Operation:
        return Operation(commands.TOUCH, (key, to_ttl_ms(ttl)), bool)

    def incr(self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None) -> Operation:
        check_counter("delta", delta)
        if initial is not None:
            check_counter("initial", initial)
        return Operation(commands.INCR, (key, delta, initial, to_ttl_ms(ttl)), _same)

    def decr(self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None) -> Operation:
        check_counter("delta", delta)
        return self.incr(key, -delta, initial, ttl)

    def limit(self, key: Key, rate: int, per_ms: int, cost: int, sliding: bool) -> Operation:
        return Operation(commands.LIMIT, (key, rate, per_ms, cost, sliding), tuple)


def check_counter(name: str, number: int) -> None:
    """Raises InvalidArgument unless this is an int of 64 bits."""
    if type(number) is not int or not limits.COUNTER_MIN <= number <= limits.COUNTER_MAX:
        raise InvalidArgument(f"{name} = {number!r}: use an int of at most 64 bits with its sign")


def check_version(version: int) -> int:
    """The version itself; raises InvalidArgument if it cannot be one."""
    if type(version) is not int or not 0 <= version < 2**64:
        raise InvalidArgument(f"version = {version!r}: use what gets() returned")
    return version


def _same(answer: Any) -> Any:
    return answer


def check_mapping(values: Mapping[Any, Value]) -> Mapping[Key, Value]:
    """The mapping itself; raises InvalidArgument if it is not a mapping."""
    if not isinstance(values, Mapping):
        raise InvalidArgument(f"values is a dict of keys and values, not {type(values).__name__}")
    return values


def batch_interpretation(operations: list[Operation], answers: Any) -> list[Any]:
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
    except UnreadableValue as error:  # of this key alone
        return error
