"""Encodes records for Valkey: a counter is decimal text, any other value has a head.

    0xC1 | codec, 1 byte | write id, 8 random bytes | payload

INCRBY works on a counter without a head, and other programs read and write it. 0xC1 begins no UTF-8
text and no msgpack, so the values of other programs can be recognized: decimal text of 64 bits is a
counter, anything else is bytes.

The write id makes compare-and-set exact: a value that was replaced by an equal one counts as
changed. Counters and other programs' values have none; for them, equal values are the same.
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
_DECIMAL = re.compile(rb"0|-?[1-9][0-9]{0,18}")  # what INCRBY takes, and no more
WHOLE = -1


def to_stored(record: Record) -> bytes:
    """The stored form of a record, with a new write id. What was compressed is stored plain.

    Example:
        >>> to_stored(Record("visits", codec.COUNTER, (7).to_bytes(8, "little"), 0))
        b'7'
    """
    if record.codec == codec.COUNTER:
        return b"%d" % codec.decode(codec.COUNTER, record.payload)
    codec_id, payload = codec.plain(record.codec, record.payload)
    return _head(codec_id, os.urandom(_STAMP_BYTES)) + payload


def from_stored(key: Key, stored: bytes, expires_at_ms: int) -> Record:
    """The record of a stored value, whichever program wrote it.

    Example:
        >>> from_stored("visits", b"7", 0).codec == codec.COUNTER
        True
        >>> from_stored("page", b"<html>", 0).codec == codec.BYTES
        True
    """
    if stored.startswith(_MARK) and len(stored) >= _HEAD_BYTES and stored[1] != codec.COUNTER:
        payload = stored[_HEAD_BYTES:]
        # Another program's bytes may look like a head of ours.
        if codec.is_readable(stored[1], payload):
            stamp = stored[len(_MARK) + 1 : _HEAD_BYTES]
            return Record(key, stored[1], payload, expires_at_ms, stamp)
    elif _DECIMAL.fullmatch(stored) and COUNTER_MIN <= int(stored) <= COUNTER_MAX:
        return Record(key, *codec.encode(int(stored)), expires_at_ms)
    return Record(key, codec.BYTES, stored, expires_at_ms)


def expected(seen: Record) -> tuple[bytes, int]:
    """The bytes that the stored value begins with while a key holds `seen`, and their number.

    If the bytes are the whole value, the number is `WHOLE`.

    Args:
        seen: as `from_stored` made it.
    """
    if seen.stamp:
        return _head(seen.codec, seen.stamp), _HEAD_BYTES
    if seen.codec == codec.COUNTER:
        return to_stored(seen), WHOLE
    return seen.payload, WHOLE


def _head(codec_id: int, stamp: bytes) -> bytes:
    return _MARK + bytes((codec_id,)) + stamp
