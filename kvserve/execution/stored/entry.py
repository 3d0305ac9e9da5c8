"""What a key holds, its version, and the two forms of its expiry."""

from __future__ import annotations

import hashlib
import time
from typing import NamedTuple

from kvserve import limits
from kvserve.protocol import codec
from kvserve.store.base import Key, Record

_VERSIONS = limits.VERSION_TABLE_END  # so many of each kind; the table's are below


class Entry(NamedTuple):
    """What a key holds: as the table has it, or as it came from the store."""

    codec: int
    payload: bytes
    version: int


class Held(NamedTuple):
    """What a key holds, and for how many milliseconds more; 0: for ever."""

    codec: int
    payload: bytes
    version: int
    ttl_ms: int


def raw_key_of(key: Key) -> bytes:
    """The key as bytes: a str key is its UTF-8."""
    return key.encode() if isinstance(key, str) else key


def expiry_of(ttl_ms: int) -> int:
    """Unix time in milliseconds of a time to live from now; 0 for 0, which is never."""
    return _now_ms() + ttl_ms if ttl_ms else 0


def ttl_ms_of(record: Record) -> int:
    """A record's time to live from now in milliseconds; 0: it never expires."""
    return max(1, record.expires_at_ms - _now_ms()) if record.expires_at_ms else 0


def alive(record: Record | None) -> Record | None:
    """The record, unless it has expired."""
    if record is None or not record.expires_at_ms or record.expires_at_ms > _now_ms():
        return record
    return None


def content_version(codec_id: int, payload: bytes) -> int:
    """The version of a value that is not in the table: it changes when the value does."""
    codec_id, payload = codec.plain(codec_id, payload)
    digest = hashlib.blake2b(payload, digest_size=8, salt=bytes([codec_id])).digest()
    return _VERSIONS + int.from_bytes(digest, "little") % _VERSIONS


def is_version(entry: Entry, version: int) -> bool:
    """Whether what a key holds has the version that `gets` returned."""
    if version >= _VERSIONS:
        return content_version(entry.codec, entry.payload) == version
    return entry.version == version


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
