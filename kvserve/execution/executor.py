"""Turns a request into its answer: the only caller of the table in a worker. Knows no descriptors
and no bytes of frames."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from kvserve import limits
from kvserve.config import Config
from kvserve.errors import (
    InternalError,
    InvalidArgument,
    InvalidTTL,
    InvalidValue,
    KvserveError,
    ValueTooLarge,
)
from kvserve.execution import limiting, many
from kvserve.execution.slices import Steps
from kvserve.protocol import codec, commands
from kvserve.protocol.messages import STATUS_DONE
from kvserve.store.base import Key
from kvserve.table._core import Writer

_log = logging.getLogger(__name__)
_ANSWER_OVERHEAD_BYTES = 32


class Executor:
    """Executes requests, one at a time.

    Args:
        table: this process's, to write with.
        shards: the shards that this worker serves, for `flush`.
        stats: returns the worker's own statistics.
    """

    def __init__(self, table: Writer, shards: range, stats: Callable[[], dict[str, Any]]) -> None:
        self._table = table
        self._shards = shards
        self._stats = stats
        self._default_ttl_ms = 0
        self._value_bytes_max = limits.VALUE_BYTES_MAX
        # Long commands, in steps: each yields where other requests may be served.
        self._in_steps: dict[int, Callable[..., Generator[None, None, Any]]] = {
            commands.BATCH.code: self._batch,
            commands.FLUSH.code: self._flush,
            commands.GET_MANY.code: partial(many.read, table.read),
            commands.SET_MANY.code: self._set_many,
            commands.DELETE_MANY.code: partial(many.each, table.delete),
        }
        self._by_code: dict[int, Callable[..., Any]] = {
            commands.PING.code: self._ping,
            commands.STATS.code: stats,
            commands.GET.code: table.read,
            commands.GET_RECORD.code: table.read_record,
            commands.TTL.code: table.ttl_ms,
            commands.SET.code: self._set,
            commands.ADD.code: self._add,
            commands.REPLACE.code: self._replace,
            commands.CAS.code: self._cas,
            commands.DELETE.code: table.delete,
            commands.DELETE_VERSION.code: table.delete_version,
            commands.TOUCH.code: self._touch,
            commands.INCR.code: self._incr,
            commands.LIMIT.code: partial(limiting.hit, table),
            commands.LIMIT_PEEK.code: partial(limiting.peek, table),
            commands.LIMIT_RESET.code: table.delete,
            commands.SCAN.code: self._scan,
            commands.VERIFY.code: self._verify,
        }

    def configure(self, config: Config) -> None:
        """Takes the live settings of a configuration."""
        # Never down to 0, which would be for ever.
        life_ms = round(config.default_ttl * 1000)
        self._default_ttl_ms = max(1, life_ms) if config.default_ttl else 0
        self._value_bytes_max = config.max_value

    def run(self, code: int, arguments: Any) -> tuple[int, Any]:
        """The status and the answer of one operation, whatever goes wrong; the worker goes on."""
        try:
            return STATUS_DONE, self.execute(code, arguments)
        except Exception as error:  # whatever it is, it becomes a reply
            return refusal(code, error)

    def execute(self, code: int, arguments: Any) -> Any:
        """The answer of one operation. Raises what went wrong, as it is: where the caller's own
        code runs in this process, it may be an exception of a signal handler."""
        return self._by_code[code](*arguments)

    def is_long(self, code: int) -> bool:
        """Whether a command is executed by `steps`, not by `run`."""
        return code in self._in_steps

    def steps(self, code: int, arguments: Any) -> Steps[tuple[int, Any]]:
        """As `run`, for a command that takes long."""
        try:
            self._table.check_own(many.keys_of(code, arguments))  # before anything is done
            return STATUS_DONE, (yield from self._in_steps[code](*arguments))
        except Exception as error:  # as in `run`
            return refusal(code, error)

    def _ping(self) -> None:
        """The reply itself is the answer."""

    def _set(self, key: bytes | str, codec_id: int, payload: bytes, ttl_ms: int) -> int:
        if codec_id != codec.BYTES or len(payload) > self._value_bytes_max:
            self.check_value(codec_id, payload)
        return self._table.set(key, codec_id, payload, self.life_ms(ttl_ms))

    def _add(self, key: bytes | str, codec_id: int, payload: bytes, ttl_ms: int) -> int:
        self.check_value(codec_id, payload)
        return self._table.add(key, codec_id, payload, self.life_ms(ttl_ms))

    def _replace(self, key: bytes | str, codec_id: int, payload: bytes, ttl_ms: int) -> int:
        self.check_value(codec_id, payload)
        return self._table.replace(key, codec_id, payload, self._life_or_kept_ms(ttl_ms))

    def _cas(
        self, key: bytes | str, codec_id: int, payload: bytes, ttl_ms: int, version: int
    ) -> int:
        self.check_value(codec_id, payload)
        return self._table.cas(key, codec_id, payload, self._life_or_kept_ms(ttl_ms), version)

    def _touch(self, key: bytes | str, ttl_ms: int) -> bool:
        return self._table.touch(key, life_ms_of(ttl_ms))  # it stores nothing: 0 means never here

    def _incr(self, key: bytes | str, delta: int, initial: int | None, ttl_ms: int) -> int | None:
        return self._table.incr(key, delta, initial, self.life_ms(ttl_ms))

    def _batch(self, operations: list[list[Any]]) -> Generator[None, None, list[tuple[int, Any]]]:
        """One [status, answer] an operation. Stops early when the reply would grow too long: the
        client sends the rest again."""
        answers: list[tuple[int, Any]] = []
        size_bytes = 0
        for code, *arguments in operations:
            answers.append(self.run(code, arguments))
            size_bytes += answer_bytes(code, answers[-1])
            if size_bytes >= limits.BATCH_REPLY_BYTES:
                break
            if not len(answers) % limits.SLICE_OPERATIONS:
                yield
        return answers

    def _set_many(
        self, keys: list[Key], numbers: bytes, payloads: list[bytes], ttl_ms: int
    ) -> Generator[None, None, int]:
        """How many were stored: all of them."""
        lives_ms = itertools.repeat(ttl_ms, len(keys))
        return many.each(self._set, keys, numbers, payloads, lives_ms)

    def _scan(self, shard: int, bucket: int, prefix: bytes) -> tuple[list[bytes | str], int | None]:
        return self._table.scan(shard, bucket, prefix)

    def _flush(self) -> Generator[None, None, None]:
        for shard in self._shards:
            self._table.flush(shard)
            yield

    def _verify(self, shard: int) -> list[str]:
        return self._table.verify(shard)

    def check_value(self, codec_id: int, payload: bytes) -> None:
        """Raises ValueTooLarge or InvalidValue for what may not be stored now."""
        tags = 0  # bytes
        if codec_id & codec.TAGGED:
            tags = codec.tags_bytes(payload)
            codec_id, payload = codec_id & ~codec.TAGGED, payload[tags:]
        if codec_id >= codec.COMPRESSED:
            codec_id, payload = self._plain(codec_id, payload, tags)
        if len(payload) + tags > self._value_bytes_max:
            raise self._too_large(len(payload) + tags)
        if codec_id != codec.BYTES:
            _check_codec(codec_id, payload)

    def _life_or_kept_ms(self, ttl_ms: int) -> int:
        return ttl_ms if ttl_ms == limits.LIFE_MS_KEPT else self.life_ms(ttl_ms)

    def _plain(self, codec_id: int, payload: bytes, tags: int) -> tuple[int, bytes]:
        """A compressed payload as it was; not made if it would be too large."""
        try:
            size = codec.plain_bytes(codec_id, payload) + tags
            if size <= self._value_bytes_max:
                return codec.plain(codec_id, payload)
        except ValueError as error:
            raise InvalidValue(f"a compressed value that cannot be read: {error}") from None
        raise self._too_large(size)

    def _too_large(self, size: int) -> ValueTooLarge:
        return ValueTooLarge(
            f"a value of {size} bytes; at most {self._value_bytes_max} are allowed now"
        )

    def life_ms(self, ttl_ms: int) -> int:
        """How long a value that is written lives: one without a ttl gets the default."""
        return life_ms_of(ttl_ms) if ttl_ms else self._default_ttl_ms


def refusal(code: int, error: Exception) -> tuple[int, str]:
    """The status and the text of a reply that says what went wrong."""
    if isinstance(error, KvserveError):
        return error.wire_code, str(error)
    if isinstance(error, (OverflowError, IndexError)):
        error = out_of_range(error)
        return error.wire_code, str(error)
    _log.error("command %d failed", code, exc_info=error)
    return InternalError.wire_code, "the worker has a bug; its log says more"


def out_of_range(error: Exception) -> InvalidArgument:
    """The error for a number that the skin of the core refuses."""
    return InvalidArgument(f"an argument is out of its range: {error}")


def answer_bytes(code: int, outcome: tuple[int, Any]) -> int:
    """About how many bytes the answer of one operation adds to a batch's reply."""
    status, answer = outcome
    has_value = code in commands.READS_OF_VALUES and status == STATUS_DONE and answer
    return _ANSWER_OVERHEAD_BYTES + (len(answer[1]) if has_value else 0)


def _check_codec(codec_id: int, payload: bytes) -> None:
    """Checks what readers will rely on: the frame came from another process."""
    if codec_id == codec.TEXT:
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise InvalidValue("a text that is not UTF-8") from None
    elif codec_id == codec.COUNTER:
        if len(payload) != codec.COUNTER_BYTES:
            raise InvalidValue(f"a counter of {len(payload)} bytes")
    elif not codec.is_number(codec_id):
        raise InvalidValue(
            f"no codec has number {codec_id}; the client may be newer than its server"
        )
    elif not codec.is_readable(codec_id, payload):
        raise InvalidValue(f"{len(payload)} bytes that are no value of codec {codec_id}")


def life_ms_of(ttl_ms: int) -> int:
    """A time to live as the table takes it; the longest one means never, as 0 does."""
    if not 0 <= ttl_ms <= limits.TTL_MS_MAX:
        raise InvalidTTL(f"a time to live of {ttl_ms} ms")
    return 0 if ttl_ms == limits.TTL_MS_MAX else ttl_ms
