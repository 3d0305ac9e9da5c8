"""Reads all items of a server, and loads items into one, with payloads as stored: dump and load.

A dump is no snapshot: the cache goes on changing meanwhile. A key that is there throughout is in
it; one that comes, goes or changes meanwhile may be in it, each time with a value that it had.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from kvserve.client.blocking.client import Client
from kvserve.client.calls.operations import Key, Operation
from kvserve.client.pipeline import first_error
from kvserve.errors import MisuseError
from kvserve.limits import MIB, TTL_MS_MAX
from kvserve.protocol import codec, commands
from kvserve.protocol.dump import Item

_DUMPED_AT_ONCE = 256  # keys; a worker serves no other client while it reads so many
_LOADED_AT_ONCE = 256
_LOADED_BYTES_AT_ONCE = MIB


@dataclass(slots=True)
class Tally:
    """What became of the items of a load."""

    loaded: int = 0
    expired: int = 0  # before they could be loaded
    kept: int = 0  # not loaded, because their keys were there
    refused: int = 0  # by the server, for example a value that is too large
    first_refusal: str = ""


def dump(client: Client, prefix: Key = "") -> Iterator[Item]:
    """The items whose keys begin with a prefix, in no order.

    Each item counts as a read of its key. A key may come twice if the table changes meanwhile.

    Raises:
        ServerError: no answer in time.

    Example:
        >>> from kvserve.client.admin import dump as dumping
        >>> cache.set("visits", 7) > 0, [item.key for item in dumping.dump(cache, "vis")]
        (True, ['visits'])
    """
    keys = client.scan(prefix)
    while batch := list(islice(keys, _DUMPED_AT_ONCE)):
        # Before the items are read: an item that is loaded again must not live longer than before.
        now_ms = _now_ms()
        operations = [
            Operation(command, (key,), _as_it_is)
            for key in batch
            for command in (commands.GET, commands.TTL)
        ]
        answers = first_error(client._run_batch(operations))
        for key, found, ttl_ms in zip(batch, answers[::2], answers[1::2], strict=True):
            if found is not None and ttl_ms is not None:  # else it was removed meanwhile
                number, payload = _plain(found[0], found[1])
                yield Item(key, number, payload, now_ms + ttl_ms if ttl_ms else 0)


def _plain(number: int, payload: bytes) -> tuple[int, bytes]:
    """Without compression. One that is damaged is left as it is, for whoever loads it to refuse."""
    try:
        return codec.plain(number, payload)
    except ValueError:
        return number, payload


def load(
    client: Client, items: Iterable[Item], *, keep: bool = False, tally: Tally | None = None
) -> Tally:
    """Stores items.

    Args:
        client: a client of the server to load into.
        items: as `dump` yields them.
        keep: leave existing keys as they are; else they are replaced.
        tally: is updated during the load, so that it shows how far a failed load came.

    Returns:
        The tally. Items that the server refuses are counted in it; the load goes on.

    Raises:
        ServerError: no answer in time. What was loaded stays.

    Example:
        >>> from kvserve.client.admin import dump as dumping
        >>> from kvserve.protocol.dump import Item
        >>> dumping.load(cache, [Item("visits", 1, b"many", 0)]).loaded, cache["visits"]
        (1, 'many')
    """
    tally = tally or Tally()
    batch: list[Item] = []
    size_bytes = 0
    for item in items:
        batch.append(item)
        size_bytes += len(item.payload)
        if len(batch) == _LOADED_AT_ONCE or size_bytes >= _LOADED_BYTES_AT_ONCE:
            _load_batch(client, batch, keep, tally)
            batch.clear()
            size_bytes = 0
    _load_batch(client, batch, keep, tally)
    return tally


def _load_batch(client: Client, items: list[Item], keep: bool, tally: Tally) -> None:
    command = commands.ADD if keep else commands.SET
    value_bytes_max = client._operations.value_bytes_max
    now_ms = _now_ms()
    operations = []
    for item in items:
        if item.expires_at_ms and item.expires_at_ms <= now_ms:
            tally.expired += 1
        elif len(item.payload) > value_bytes_max:  # its frame may be longer than a worker takes
            reason = f"a value of {len(item.payload)} bytes; at most {value_bytes_max} fit here"
            _note_refusal(tally, item.key, reason)
        else:
            # The longest time means never; none would mean the server's default.
            ttl_ms = item.expires_at_ms - now_ms if item.expires_at_ms else TTL_MS_MAX
            arguments = (item.key, item.codec, item.payload, min(ttl_ms, TTL_MS_MAX))
            operations.append(Operation(command, arguments, bool))
    answers = client._run_batch(operations)
    for operation, answer in zip(operations, answers, strict=True):
        if isinstance(answer, MisuseError):  # the fault is this item's; the next may be fine
            _note_refusal(tally, operation.key, str(answer))
        elif answer is True:
            tally.loaded += 1
        elif answer is False:
            tally.kept += 1
    first_error([answer for answer in answers if not isinstance(answer, MisuseError)])


def _note_refusal(tally: Tally, key: Key, reason: str) -> None:
    tally.refused += 1
    tally.first_refusal = tally.first_refusal or f"{key!r}: {reason}"


def _now_ms() -> int:
    return int(time.time() * 1000)


def _as_it_is(answer: Any) -> Any:
    return answer
