"""The request that each method of a client sends to a worker, and how its answer is read. No I/O.

Arguments are checked here, before anything is sent. Both clients and both pipelines share this.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

from kvserve import limits
from kvserve.client.calls.call import Call
from kvserve.client.calls.rules import DO_NOT_KEEP, Rules
from kvserve.client.calls.rules import TTL as TTL
from kvserve.client.calls.rules import Key as Key
from kvserve.client.values import Values
from kvserve.errors import (
    InternalError,
    InvalidArgument,
    InvalidTTL,
    KvserveError,
    ValueTooLarge,
    from_wire,
)
from kvserve.protocol import commands
from kvserve.protocol.codec import COMPRESSED, Value, plain_bytes
from kvserve.protocol.commands import Command
from kvserve.protocol.messages import STATUS_DONE
from kvserve.table._core import check_key

AnyKey = TypeVar("AnyKey", bound=Key)  # a dict[bytes, X] is no Mapping[Key, X]
NOT_KEPT_MS = -1  # a ttl that is over


class Record(NamedTuple):
    """What a key holds, all of one moment; returned by `Client.get_record`.

    Args:
        value: as it was stored.
        ttl: seconds that it has to live; `math.inf`: it never expires.
        version: for `cas` and `delete`, as `Client.gets` returns it.

    Example:
        >>> cache.set("user:1", "Ada") > 0, cache.get_record("user:1")
        (True, Record(value='Ada', ttl=inf, version=...))
    """

    value: Any
    ttl: float
    version: int


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


def unix_seconds(when: datetime.datetime | float) -> float:
    """A moment as seconds since 1970.

    Raises:
        InvalidArgument: a datetime without a time zone, or something else.
        InvalidTTL: not a number.

    Example:
        >>> unix_seconds(datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC))
        86400.0
    """
    if isinstance(when, datetime.datetime):
        if when.utcoffset() is None:
            raise InvalidArgument(
                f"when = {when!r} has no time zone: use datetime.now(UTC), or when.astimezone()"
            )
        return when.timestamp()
    if isinstance(when, bool) or not isinstance(when, (int, float)):
        raise InvalidArgument(
            f"when is a datetime with a time zone or seconds since 1970, not {type(when).__name__}"
        )
    if math.isnan(when):
        raise InvalidTTL("when = nan: use a moment")
    return when


def from_ttl_ms(ttl_ms: int | None) -> float | None:
    """Seconds of an answer: infinity for a key that never expires, None for a missing one."""
    if ttl_ms is None:
        return None
    return ttl_ms / 1000 if ttl_ms else math.inf


def record_of(value: Any, ttl_ms: int, version: int) -> Record:
    """What `get_record` returns, from milliseconds of which 0 means for ever."""
    return Record(value, ttl_ms / 1000 if ttl_ms else math.inf, version)


class Bound:
    """An instance's largest value in bytes, as all of a client know it."""

    def __init__(self, value_bytes_max: int) -> None:
        self.value_bytes_max = value_bytes_max


class Operations:
    """Makes operations for an instance.

    Args:
        bound: of its values.
        values: how the client encodes and decodes.
        rules: what is done with what does not fit.
        in_namespace: the keys are fitted by the namespace, when it puts its prefix before them.
    """

    def __init__(
        self, bound: Bound, values: Values, rules: Rules, *, in_namespace: bool = False
    ) -> None:
        self.bound = bound
        self.values = values
        self._encode, self._decode = values.encode, values.decode
        self.rules = rules
        self._fits_keys = rules.long_keys == "hash" and not in_namespace
        self._is_strict = rules.lifetimes == "strict"

    def in_namespace(self, rules: Rules) -> Operations:
        """Those of a namespace, with rules of its own."""
        return Operations(self.bound, self.values, rules, in_namespace=True)

    def value_of(self, key: Key, answer: Any, default: Any) -> Any:
        """The value in the answer to a get. Raises UnreadableValue."""
        return default if answer is None else self._decode(answer[0], answer[1], key)

    @property
    def value_bytes_max(self) -> int:
        """The largest value, in bytes."""
        return self.bound.value_bytes_max

    @value_bytes_max.setter
    def value_bytes_max(self, value_bytes_max: int) -> None:
        self.bound.value_bytes_max = value_bytes_max

    def key(self, key: Key) -> Key:
        """The key, or what replaces it."""
        return self.rules.key(key) if self._fits_keys else key

    def check_key(self, key: Key) -> None:
        """Raises InvalidKey for what is none, whatever comes before it."""
        check_key(self.rules.key(key))

    def ttl_ms(self, ttl: TTL) -> int:
        """As `to_ttl_ms`; NOT_KEPT_MS for a lifetime that is over, by lenient rules."""
        if self._is_strict:
            return to_ttl_ms(ttl)
        ttl = self.rules.lifetime(ttl)
        return NOT_KEPT_MS if ttl == DO_NOT_KEEP else to_ttl_ms(ttl)

    def get(self, key: Key, default: Any = None) -> Operation:
        return Operation(
            commands.GET, (self.key(key),), lambda answer: self.value_of(key, answer, default)
        )

    def gets(self, key: Key, default: Any = None) -> Operation:
        def interpret(answer: Any) -> tuple[Any, int | None]:
            if answer is None:
                return default, None
            return self._decode(answer[0], answer[1], key), answer[2]

        return Operation(commands.GET, (self.key(key),), interpret)

    def get_record(self, key: Key) -> Operation:
        def interpret(answer: Any) -> Record | None:
            if answer is None:
                return None
            codec_id, payload, version, ttl_ms = answer
            return record_of(self._decode(codec_id, payload, key), ttl_ms, version)

        return Operation(commands.GET_RECORD, (self.key(key),), interpret)

    def ttl(self, key: Key) -> Operation:
        return Operation(commands.TTL, (self.key(key),), from_ttl_ms)

    def set(self, key: Key, value: Value, ttl: TTL = None) -> Operation:
        try:
            stored = self._stored(key, value, ttl)
        except ValueTooLarge as error:
            if self.rules.too_large == "keep":
                raise
            return Operation(commands.DELETE, (self.key(key),), partial(_raise, error))
        if stored[3] == NOT_KEPT_MS:
            return Operation(commands.DELETE, stored[:1], _no_version)
        return Operation(commands.SET, stored, int)

    def _stored(self, key: Key, value: Value, ttl: TTL) -> tuple[Key, int, bytes, int]:
        """The arguments of a command that stores a value."""
        codec_id, payload = self.encode(value)
        return self.key(key), codec_id, payload, 0 if ttl is None else self.ttl_ms(ttl)

    def encode(self, value: Value) -> tuple[int, bytes]:
        """The codec and the payload of a value that may be stored."""
        codec_id, payload = self._encode(value)
        size = len(payload) if codec_id < COMPRESSED else plain_bytes(codec_id, payload)
        if size > self.value_bytes_max:
            raise ValueTooLarge(
                f"a value of {size} bytes; at most {self.value_bytes_max} are allowed here"
            )
        return codec_id, payload

    def check_values(self, items: Mapping[Key, Value]) -> None:
        """Raises for a value that may not be stored."""
        for value in items.values():
            self.encode(value)

    def to_remove(self, items: Mapping[Key, Value]) -> list[Key]:
        """The keys to remove because their values are too large, by the rules."""
        large = []
        for key, value in items.items() if self.rules.too_large == "remove" else ():
            try:
                self.encode(value)
            except ValueTooLarge:
                large.append(key)
        return large

    def add(self, key: Key, value: Value, ttl: TTL = None) -> Operation:
        stored = self._stored(key, value, ttl)
        if stored[3] == NOT_KEPT_MS:
            return Operation(commands.TTL, stored[:1], _is_none)
        return Operation(commands.ADD, stored, bool)

    def replace(
        self, key: Key, value: Value, ttl: TTL = None, *, keep_ttl: bool = False
    ) -> Operation:
        stored = self._stored_over(key, value, ttl, keep_ttl)
        if stored[3] == NOT_KEPT_MS:
            return Operation(commands.DELETE, stored[:1], bool)
        return Operation(commands.REPLACE, stored, bool)

    def cas(
        self, key: Key, value: Value, version: int, ttl: TTL = None, *, keep_ttl: bool = False
    ) -> Operation:
        stored = self._stored_over(key, value, ttl, keep_ttl)
        check_version(version)
        if stored[3] == NOT_KEPT_MS:
            return Operation(commands.DELETE_VERSION, (stored[0], version), bool)
        return Operation(commands.CAS, (*stored, version), bool)

    def _stored_over(
        self, key: Key, value: Value, ttl: TTL, keep_ttl: bool
    ) -> tuple[Key, int, bytes, int]:
        stored = self._stored(key, value, ttl)
        if not keep_ttl:
            return stored
        check_kept(ttl)
        return (*stored[:3], limits.LIFE_MS_KEPT)

    def delete(self, key: Key, version: int | None = None) -> Operation:
        key = self.key(key)
        if version is None:
            return Operation(commands.DELETE, (key,), bool)
        return Operation(commands.DELETE_VERSION, (key, check_version(version)), bool)

    def touch(self, key: Key, ttl: TTL = None) -> Operation:
        ttl_ms = self.ttl_ms(ttl)
        if ttl_ms == NOT_KEPT_MS:
            return self.delete(key)
        return Operation(commands.TOUCH, (self.key(key), ttl_ms), bool)

    def expire_at(self, key: Key, when: datetime.datetime | float) -> Operation:
        seconds = unix_seconds(when) - time.time()
        return self.delete(key) if seconds <= 0 else self.touch(key, seconds)

    def incr(self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None) -> Operation:
        check_counter("delta", delta)
        if initial is not None:
            check_counter("initial", initial)
        ttl_ms = self.ttl_ms(ttl)
        if ttl_ms == NOT_KEPT_MS:
            raise InvalidTTL(f"ttl = {ttl}: a counter's is more than 0, or None")
        return Operation(commands.INCR, (self.key(key), delta, initial, ttl_ms), _same)

    def decr(self, key: Key, delta: int = 1, initial: int | None = 0, ttl: TTL = None) -> Operation:
        check_counter("delta", delta)
        return self.incr(key, -delta, initial, ttl)

    def limit(self, key: Key, rate: int, per_ms: int, cost: int, window: int) -> Operation:
        return Operation(commands.LIMIT, (key, rate, per_ms, cost, window), tuple)

    def limit_peek(self, key: Key, per_ms: int, window: int) -> Operation:
        return Operation(commands.LIMIT_PEEK, (key, per_ms, window), tuple)

    def limit_reset(self, key: Key) -> Operation:
        return Operation(commands.LIMIT_RESET, (key,), bool)


def check_counter(name: str, number: int) -> None:
    """Raises InvalidArgument unless this is an int of 64 bits."""
    if type(number) is not int or not limits.COUNTER_MIN <= number <= limits.COUNTER_MAX:
        raise InvalidArgument(f"{name} = {number!r}: use an int of at most 64 bits with its sign")


def check_kept(ttl: TTL) -> None:
    """Raises InvalidArgument for a ttl beside `keep_ttl`."""
    if ttl is not None:
        raise InvalidArgument(f"ttl = {ttl!r} with keep_ttl=True: use one of them")


def check_version(version: int) -> int:
    """The version itself; raises InvalidArgument if it cannot be one."""
    if type(version) is not int or not 0 <= version < 2**64:
        raise InvalidArgument(f"version = {version!r}: use what gets() returned")
    return version


def _same(answer: Any) -> Any:
    return answer


def _is_none(answer: Any) -> bool:
    return answer is None


def _no_version(_: Any) -> int:
    return 0


def _raise(error: KvserveError, _: Any) -> None:
    raise error


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
    except KvserveError as error:  # of this key alone
        return error
