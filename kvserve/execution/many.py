"""One command for many keys: executed here step by step, or split into operations for a store."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from kvserve import limits
from kvserve.errors import (
    KvserveError,
    OutcomeUnknown,
    RequestTimeout,
    ServerBusy,
    StoreUnavailable,
    UnreadableValue,
    ValueTooLarge,
)
from kvserve.protocol import codec, commands
from kvserve.protocol.messages import STATUS_DONE
from kvserve.store.base import Key

_MISS = (codec.BYTES, None, 0)
# For a read: what the store holds is longer than values may be here, or is no value.
_LEFT_OUT = (ValueTooLarge.wire_code, UnreadableValue.wire_code)


def keys_of(code: int, arguments: tuple[Any, ...]) -> list[Key]:
    """The keys that a batch, or a command for many keys, is about; none of any other command."""
    if code == commands.BATCH.code:
        return [operation[1] for operation in arguments[0]]
    keys: list[Key] = arguments[0] if code in commands.SINGLE_OF else []
    return keys


def read(
    look: Callable[[Key], tuple[Any, ...] | None], keys: list[Key]
) -> Generator[None, None, tuple[bytes, list[bytes | None]]]:
    """Returns the codec and the payload of each key, None for a miss.

    Yields where it may be interrupted. Stops early when the reply would grow too long: the client
    asks for the rest again.

    Args:
        look: reads one key: (codec, payload, version), or None.
        keys: what to read.
    """
    codec_ids = bytearray()
    payloads: list[bytes | None] = []
    left_bytes = limits.BATCH_REPLY_BYTES
    for index, key in enumerate(keys, 1):
        codec_id, payload, *_ = look(key) or _MISS
        codec_ids.append(codec_id)
        payloads.append(payload)
        if payload:
            left_bytes -= len(payload)
            if left_bytes <= 0:
                break
        if not index % limits.SLICE_OPERATIONS:
            yield
    return bytes(codec_ids), payloads


def each(change: Callable[..., Any], *arguments: Any) -> Generator[None, None, int]:
    """Makes a change for each element of several lists, which have the same length.

    Yields where it may be interrupted.

    Returns:
        How many changes returned that they did something.

    Raises:
        KvserveError: the first that a change raised, after the others were made.
        ServerBusy: the first change could not be made; no other was tried.
        RequestTimeout: a later one could not be made for that reason; no other was tried after it.
    """
    count = 0
    first_error: KvserveError | None = None
    for index, row in enumerate(zip(*arguments, strict=True)):
        try:
            if change(*row):
                count += 1
        except ServerBusy as busy:
            if index:  # ServerBusy would promise that nothing was changed
                raise RequestTimeout(f"not everything was done: {busy}") from None
            raise
        except KvserveError as error:
            first_error = first_error or error
        if not (index + 1) % limits.SLICE_OPERATIONS:
            yield
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
    if code == commands.GET_MANY.code:
        # A value that cannot be had is left out, for the sake of the others; a get says why.
        outcomes = [(STATUS_DONE, None) if each[0] in _LEFT_OUT else each for each in outcomes]
    statuses = {status for status, _ in outcomes}
    for status, answer in outcomes:
        if status == ServerBusy.wire_code and len(statuses) > 1:  # as in `each`
            return RequestTimeout.wire_code, f"not everything was done: {answer}"
        is_change = code != commands.GET_MANY.code
        if is_change and status == StoreUnavailable.wire_code and len(statuses) > 1:
            # That would promise that nothing was changed; another node of the store did its part.
            return OutcomeUnknown.wire_code, f"not everything was done: {answer}"
        if status != STATUS_DONE:
            return status, answer
    answers = [answer for _, answer in outcomes]
    if code == commands.GET_MANY.code:
        found = [answer or _MISS for answer in answers]
        return STATUS_DONE, (bytes(each[0] for each in found), [each[1] for each in found])
    return STATUS_DONE, sum(map(bool, answers))
