"""Request to answer: the only caller of the table in a worker. Knows no descriptors and no bytes
of frames."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from kvserve import limits
from kvserve.errors import (
    InternalError,
    InvalidArgument,
    InvalidTTL,
    InvalidValue,
    KvserveError,
)
from kvserve.protocol import codec, commands
from kvserve.protocol.messages import STATUS_DONE, Reply, Request
from kvserve.table.table import Table

_log = logging.getLogger(__name__)
_ANSWER_OVERHEAD_BYTES = 32


class Executor:
    """Executes requests, one at a time.

    Args:
        table: this process's.
        shards: the shards that this worker serves, for `flush`.
        stats: gives the worker's own figures.
    """

    def __init__(
        self, table: Table, shards: range, stats: Callable[[], dict[str, int | float]]
    ) -> None:
        self._table = table
        self._shards = shards
        self._stats = stats
        self._by_code: dict[int, Callable[..., Any]] = {
            commands.PING.code: self._ping,
            commands.STATS.code: stats,
            commands.GET.code: table.read,
            commands.TTL.code: table.ttl_ms,
            commands.SET.code: self._set,
            commands.ADD.code: self._add,
            commands.REPLACE.code: self._replace,
            commands.CAS.code: self._cas,
            commands.DELETE.code: table.delete,
            commands.TOUCH.code: self._touch,
            commands.INCR.code: self._incr,
            commands.BATCH.code: self._batch,
            commands.SCAN.code: self._scan,
            commands.FLUSH.code: self._flush,
            commands.VERIFY.code: self._verify,
        }

    def execute(self, request: Request) -> Reply:
        """The reply to a request. Whatever goes wrong is in the reply; the worker goes on."""
        status, answer = self._run(request.command.code, request.arguments)
        return Reply(request.request_id, status, answer)

    def _run(self, code: int, arguments: Any) -> tuple[int, Any]:
        try:
            return STATUS_DONE, self._by_code[code](*arguments)
        except KvserveError as error:
            return error.wire_code, str(error)
        except (OverflowError, IndexError) as error:
            return InvalidArgument.wire_code, f"an argument is out of its range: {error}"
        except Exception:
            _log.exception("command %d failed", code)
            return InternalError.wire_code, "the worker has a bug; its log tells more"

    def _ping(self) -> None:
        """Being answered is the answer."""

    def _set(self, key: bytes | str, number: int, payload: bytes, ttl_ms: int) -> int:
        _check_value(number, payload, ttl_ms)
        return self._table.set(key, number, payload, ttl_ms)

    def _add(self, key: bytes | str, number: int, payload: bytes, ttl_ms: int) -> int:
        _check_value(number, payload, ttl_ms)
        return self._table.add(key, number, payload, ttl_ms)

    def _replace(self, key: bytes | str, number: int, payload: bytes, ttl_ms: int) -> int:
        _check_value(number, payload, ttl_ms)
        return self._table.replace(key, number, payload, ttl_ms)

    def _cas(self, key: bytes | str, number: int, payload: bytes, ttl_ms: int, version: int) -> int:
        _check_value(number, payload, ttl_ms)
        return self._table.cas(key, number, payload, ttl_ms, version)

    def _touch(self, key: bytes | str, ttl_ms: int) -> bool:
        _check_ttl(ttl_ms)
        return self._table.touch(key, ttl_ms)

    def _incr(self, key: bytes | str, delta: int, initial: int | None, ttl_ms: int) -> int | None:
        _check_ttl(ttl_ms)
        return self._table.incr(key, delta, initial, ttl_ms)

    def _batch(self, operations: list[list[Any]]) -> list[tuple[int, Any]]:
        """One [status, answer] an operation. Stops early when the reply would grow too long: the
        client sends the rest again."""
        answers = []
        size_bytes = 0
        for code, *arguments in operations:
            answers.append(self._run(code, arguments))
            if code == commands.GET.code and answers[-1][0] == STATUS_DONE and answers[-1][1]:
                size_bytes += len(answers[-1][1][1])
            size_bytes += _ANSWER_OVERHEAD_BYTES
            if size_bytes >= limits.BATCH_REPLY_BYTES:
                break
        return answers

    def _scan(self, shard: int, bucket: int, prefix: bytes) -> tuple[list[bytes | str], int | None]:
        return self._table.scan(shard, bucket, prefix)

    def _flush(self) -> None:
        for shard in self._shards:
            self._table.flush(shard)

    def _verify(self, shard: int) -> list[str]:
        return self._table.verify(shard)


def _check_value(number: int, payload: bytes, ttl_ms: int) -> None:
    """What a reader will rely on is checked here: the frame came from another process."""
    _check_ttl(ttl_ms)
    if number == codec.TEXT:
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise InvalidValue("a text that is not UTF-8") from None
    elif number == codec.COUNTER:
        if len(payload) != codec.COUNTER_BYTES:
            raise InvalidValue(f"a counter of {len(payload)} bytes")
    elif number not in (codec.BYTES, codec.MSGPACK):
        raise InvalidValue(f"no codec has number {number}")


def _check_ttl(ttl_ms: int) -> None:
    if not 0 <= ttl_ms <= limits.TTL_MS_MAX:
        raise InvalidTTL(f"a time to live of {ttl_ms} ms")
