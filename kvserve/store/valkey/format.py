"""How a record looks in Valkey: a counter is decimal text, all else has a head.

    0xC1 | codec, 1 byte | write id, 8 random bytes | payload

A counter without a head is what INCRBY works on and what other programs read and write. 0xC1 begins
no UTF-8 text and no msgpack, so values that other programs wrote are told apart: decimal text of 64
bits is a counter, anything else is bytes.

The write id makes compare-and-set exact: a value that was replaced by an equal one is another
value. Counters and others' values have none; there, equal is the same.
"""

from __future__ import annotations

import os
import re

from kvserve.limits import COUNTER_MAX, COUNTER_MIN
from kvserve.protocol import codec
from kvserve.store.base import Key, Record

_MARK = b"\xc1"
_STAMP_BYTES = 8
_HEAD_BYTES = len(_MARK) + 1 + _STAMP_BYTES
_WITH_HEAD = (codec.BYTES, codec.TEXT, codec.MSGPACK)
_DECIMAL = re.compile(rb"0|-?[1-9][0-9]{0,18}")  # what INCRBY takes, and no more
WHOLE = -1


def to_stored(record: Record) -> bytes:
    """What is stored for a record, with a new write id.

    Example:
        >>> to_stored(Record("visits", codec.COUNTER, (7).to_bytes(8, "little"), 0))
        b'7'
    """
    if record.codec == codec.COUNTER:
        return b"%d" % codec.decode(codec.COUNTER, record.payload)
    return _head(record.codec, os.urandom(_STAMP_BYTES)) + record.payload


def from_stored(key: Key, stored: bytes, expires_at_ms: int) -> Record:
    """The record that is stored, whoever wrote it.

    Example:
        >>> from_stored("visits", b"7", 0).codec == codec.COUNTER
        True
        >>> from_stored("page", b"<html>", 0).codec == codec.BYTES
        True
    """
    if stored.startswith(_MARK) and len(stored) >= _HEAD_BYTES and stored[1] in _WITH_HEAD:
        payload = stored[_HEAD_BYTES:]
        # Somebody else's bytes may look like a head of ours.
        if codec.is_readable(stored[1], payload):
            stamp = stored[len(_MARK) + 1 : _HEAD_BYTES]
            return Record(key, stored[1], payload, expires_at_ms, stamp)
    elif _DECIMAL.fullmatch(stored) and COUNTER_MIN <= int(stored) <= COUNTER_MAX:
        return Record(key, *codec.encode(int(stored)), expires_at_ms)
    return Record(key, codec.BYTES, stored, expires_at_ms)


def expected(seen: Record) -> tuple[bytes, int]:
    """What is stored while a key holds `seen`: its first bytes and their number, or all, `WHOLE`.

    Args:
        seen: as `from_stored` made it.
    """
    if seen.stamp:
        return _head(seen.codec, seen.stamp), _HEAD_BYTES
    if seen.codec == codec.COUNTER:
        return to_stored(seen), WHOLE
    return seen.payload, WHOLE


def _head(number: int, stamp: bytes) -> bytes:
    return _MARK + bytes((number,)) + stamp
