"""One command for many keys: executed here in one loop, or told as operations for a store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvserve import limits
from kvserve.errors import (
    KvserveError,
    OutcomeUnknown,
    RequestTimeout,
    ServerBusy,
    StoreUnavailable,
)
from kvserve.protocol import codec, commands
from kvserve.protocol.messages import STATUS_DONE
from kvserve.store.base import Key

_MISS = (codec.BYTES, None, 0)


def read(
    look: Callable[[Key], tuple[int, bytes, int] | None], keys: list[Key]
) -> tuple[bytes, list[bytes | None]]:
    """The codec and the payload of each key, None of a miss.

    Stops early when the reply would grow too long: the client asks for the rest again.

    Args:
        look: reads one key: (codec, payload, version), or None.
        keys: what to read.
    """
    numbers = bytearray()
    payloads: list[bytes | None] = []
    left_bytes = limits.BATCH_REPLY_BYTES
    for key in keys:
        number, payload, _ = look(key) or _MISS
        numbers.append(number)
        payloads.append(payload)
        if payload:
            left_bytes -= len(payload)
            if left_bytes <= 0:
                break
    return bytes(numbers), payloads


def each(change: Callable[..., Any], *arguments: Any) -> int:
    """Makes a change for each element of several lists, which have the same length.

    Returns:
        How many of them said that they did something.

    Raises:
        KvserveError: the first that one of them raised, once the others were made.
        ServerBusy: the first of them could not be made; no other was tried.
        RequestTimeout: a later one could not be made for that reason, nor tried those after it.
    """
    count = 0
    first_error: KvserveError | None = None
    for place, row in enumerate(zip(*arguments, strict=True)):
        try:
            if change(*row):
                count += 1
        except ServerBusy as busy:
            if place:  # ServerBusy would promise that nothing was changed
                raise RequestTimeout(f"not everything was done: {busy}") from None
            raise
        except KvserveError as error:
            first_error = first_error or error
    if first_error is not None:
        raise first_error
    return count


def as_operations(code: int, arguments: tuple[Any, ...]) -> list[list[Any]]:
    """The operations that a command for many keys stands for, as a batch has them."""
    if code == commands.SET_MANY.code:
        *columns, ttl_ms = arguments
        return [[commands.SET.code, *row, ttl_ms] for row in zip(*columns, strict=True)]
    single = commands.SINGLE_OF[code]
    return [[single.code, key] for key in arguments[0]]


def as_answer(code: int, outcomes: list[tuple[int, Any]]) -> tuple[int, Any]:
    """The status and the answer of such a command from those of its operations."""
    statuses = {status for status, _ in outcomes}
    for status, answer in outcomes:
        if status == ServerBusy.wire_code and len(statuses) > 1:  # as in `each`
            return RequestTimeout.wire_code, f"not everything was done: {answer}"
        is_change = code != commands.GET_MANY.code
        if is_change and status == StoreUnavailable.wire_code and len(statuses) > 1:
            # It would promise that nothing was changed; another node of the store did its part.
            return OutcomeUnknown.wire_code, f"not everything was done: {answer}"
        if status != STATUS_DONE:
            return status, answer
    answers = [answer for _, answer in outcomes]
    if code == commands.GET_MANY.code:
        found = [answer or _MISS for answer in answers]
        return STATUS_DONE, (bytes(each[0] for each in found), [each[1] for each in found])
    return STATUS_DONE, sum(map(bool, answers))
