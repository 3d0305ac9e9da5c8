"""Converts records to rows of the table `items` and back, as docs/stores.md describes them.

People read and edit the rows with the sqlite3 shell, so values are text or numbers where possible.
"""

from __future__ import annotations

from typing import Any

from kvserve.protocol import codec
from kvserve.store.base import Key, Record

Row = tuple[str | bytes, bool, int, str | bytes | int, int | None]


def to_key(key: Key) -> str | bytes:
    """A key's column: the same for a str and for its UTF-8 bytes.

    Example:
        >>> to_key("é") == to_key("é".encode()), to_key(b"\\xff"), to_key("a\\0b")
        (True, b'\\xff', b'a\\x00b')
    """
    return _text_or_bytes(key.encode() if isinstance(key, str) else key)


def to_row(record: Record) -> Row:
    """The columns key, is_text, codec, value, expires_at. What was compressed is stored plain."""
    codec_id, payload = codec.plain(record.codec, record.payload)
    return (
        to_key(record.key),
        isinstance(record.key, str),
        codec_id,
        _to_value(codec_id, payload),
        record.expires_at_ms or None,
    )


def to_record(key: Key, row: tuple[Any, ...]) -> Record:
    """The record of a key that was looked for.

    Args:
        key: a str or its UTF-8 bytes.
        row: the columns is_text, codec, typeof(value), value, expires_at; text is given as bytes.
    """
    is_text, codec_id, kind, value, expires_at_ms = row
    codec_id, payload = _from_value(codec_id, kind, value)
    return Record(_as_given(key, is_text), codec_id, payload, expires_at_ms or 0)


def _as_given(key: Key, is_text: int) -> Key:
    name = key.encode() if isinstance(key, str) else key
    if not is_text:
        return name
    try:
        return name.decode()
    except UnicodeDecodeError:  # a row made by hand
        return name


def _to_value(codec_id: int, payload: bytes) -> str | bytes | int:
    if codec_id == codec.TEXT:
        return _text_or_bytes(payload)
    if codec_id == codec.COUNTER and len(payload) == codec.COUNTER_BYTES:
        return int.from_bytes(payload, "little", signed=True)
    return payload


def _from_value(codec_id: int | None, kind: bytes, value: Any) -> tuple[int, bytes]:
    """Codec and payload. If they do not fit, the value was edited by hand: its type decides."""
    if kind == b"text":
        return (codec.TEXT if codec.is_readable(codec.TEXT, value) else codec.BYTES), value
    if kind != b"blob":  # an integer; a real or NULL, which only people write
        return codec.encode(value)
    is_text = codec_id == codec.TEXT
    if codec_id in (None, codec.COUNTER) or (is_text and not codec.is_readable(codec_id, value)):
        return codec.BYTES, value
    return codec_id, value


def _text_or_bytes(text: bytes) -> str | bytes:
    """A str if SQLite can keep it as TEXT, else the bytes, for a BLOB.

    TEXT may contain NUL, but length(), the shell and many programs would end it there.
    """
    if b"\0" in text:
        return text
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text
