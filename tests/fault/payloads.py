"""Values that tell whether they are whole: a number, then bytes that follow from it, then a sum."""

from __future__ import annotations

import random
import zlib

_NUMBER_BYTES = _SUM_BYTES = 8


def make(number: int, size_bytes: int) -> bytes:
    """The value of this number; at least 16 bytes long."""
    filler = random.Random(number).randbytes(max(0, size_bytes - _NUMBER_BYTES - _SUM_BYTES))
    body = number.to_bytes(_NUMBER_BYTES, "little") + filler
    return body + zlib.crc32(body).to_bytes(_SUM_BYTES, "little")


def number_of(value: bytes) -> int:
    """The number of a value; fails if the value is torn."""
    body, checksum = value[:-_SUM_BYTES], value[-_SUM_BYTES:]
    assert len(value) >= _NUMBER_BYTES + _SUM_BYTES, f"a torn value of {len(value)} bytes"
    assert zlib.crc32(body) == int.from_bytes(checksum, "little"), f"a torn value: {value[:40]!r}"
    return int.from_bytes(body[:_NUMBER_BYTES], "little")
