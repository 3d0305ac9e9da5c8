"""Values to bytes and back. Every record carries its codec, so a str comes back as a str.

Nothing here executes what it reads: there is no pickle. A value comes back exactly as it was, or is
refused; docs/values.md has the table. Numbers 64 to 127 belong to applications' own codecs, see
own.py: only kvserve/client/values.py decodes those.
"""

from __future__ import annotations

import datetime
from typing import Any, Final

from kvserve import native
from kvserve.errors import InvalidValue, UnreadableValue
from kvserve.limits import COUNTER_MAX, COUNTER_MIN
from kvserve.protocol import arrays, compression, own

native.load("kvserve.protocol._values")

from kvserve.protocol import _values  # noqa: E402 - only now is it known to be there

# The codecs' numbers, which are part of the table's layout.
BYTES: Final = 0
TEXT: Final = 1  # UTF-8
COUNTER: Final = 2  # int: a signed 64-bit little-endian cell that incr changes in place
MSGPACK: Final = 3  # None, bool, float, list, tuple, dict, datetime, int beyond a counter's range
ARRAY: Final = 4  # arrays.py draws it

# Beside the number of a codec: its payload is compressed, see kvserve/protocol/compression.py.
COMPRESSED: Final = 0x80

Value = Any  # what the codecs carry; narrower types would reject valid dicts (dict is invariant)

COUNTER_BYTES = 8
# What needs no look whether it is an array.
_PACKED = frozenset((list, tuple, dict, float, bool, type(None), datetime.datetime, int))


def encode(value: Value) -> tuple[int, bytes]:
    """The codec and the payload of `value`.

    Args:
        value: bytes, str, int (from -2**63 to 2**64 - 1), None, bool, float, datetime with a time
            zone, or a list, tuple or dict of these; or, alone, a numpy array, an array.array, or a
            memoryview with a format. Subclasses are refused, except bool. A bytearray and a
            memoryview of plain bytes are stored as bytes.

    Returns:
        The number of the codec, and the payload in bytes.

    Raises:
        InvalidValue: anything else, at any depth; the text has the path to it and its type.
        ValueTooLarge: it is longer than any instance takes.

    Example:
        >>> encode("é"), encode(7)
        ((1, b'\\xc3\\xa9'), (2, b'\\x07\\x00\\x00\\x00\\x00\\x00\\x00\\x00'))
    """
    kind = type(value)
    if kind is bytes:
        return BYTES, value
    if kind is str:
        try:
            return TEXT, value.encode()
        except UnicodeEncodeError as error:
            raise InvalidValue(
                f"this value cannot be encoded as UTF-8: {error.reason}; store its bytes"
            ) from None
    if kind is int and COUNTER_MIN <= value <= COUNTER_MAX:
        return COUNTER, value.to_bytes(COUNTER_BYTES, "little", signed=True)
    if kind not in _PACKED:
        if arrays.is_array(kind):
            return ARRAY, arrays.pack(value)
        if kind is bytearray or kind is memoryview:
            return _encode_buffer(value)
    return MSGPACK, _values.pack(value)


def encode_exactly(value: Value) -> tuple[int, bytes]:
    """As `encode`, but also refuses what would come back as something else that is like it.

    Raises:
        InvalidValue: as `encode`, or it is, or holds, a bytearray, a memoryview of plain bytes, or
            a datetime that is not in UTC.

    Example:
        >>> encode_exactly(["tea", 7])
        (3, b'\\x92\\xa3tea\\x07')
    """
    kind = type(value)
    if kind is list or kind is dict or kind is tuple or kind is datetime.datetime:
        return MSGPACK, _values.pack(value, exact=True)
    found = encode(value)
    if found[0] == BYTES and kind is not bytes:
        raise InvalidValue(f"this value is a {kind.__name__}, which would come back as bytes")
    return found


def _encode_buffer(value: bytearray | memoryview) -> tuple[int, bytes]:
    try:
        if type(value) is memoryview and not arrays.is_plain(value):
            return ARRAY, arrays.pack(value)
        return BYTES, bytes(value)
    except InvalidValue:
        raise
    except (ValueError, BufferError) as error:
        raise InvalidValue(f"this {type(value).__name__} cannot be read: {error}") from None


def decode(codec: int, payload: bytes, key: str | bytes | None = None) -> Value:
    """The value for which `encode` returned this codec and payload.

    Args:
        codec, payload: as `encode` returned them.
        key: the key that it is stored under, for the error.

    Raises:
        UnreadableValue: no codec has this number, or the payload does not follow it.

    Example:
        >>> decode(*encode({"name": "Ada", "at": (1, 2)}))
        {'name': 'Ada', 'at': (1, 2)}
    """
    try:
        if codec >= COMPRESSED:
            codec, payload = expanded(codec, payload, key)
        if codec == MSGPACK:
            return _values.unpack(payload)
        if codec == BYTES:
            return payload
        if codec == TEXT:
            return payload.decode()
        if codec == COUNTER and len(payload) == COUNTER_BYTES:
            return int.from_bytes(payload, "little", signed=True)
        if codec == ARRAY:
            return arrays.unpack(payload)
    except ImportError as error:
        raise UnreadableValue(
            f"{subject(key)} is a numpy array, and numpy cannot be imported here ({error}): "
            "install it, or set or delete the key"
        ) from error
    except ValueError as error:
        raise UnreadableValue(_unreadable(codec, payload, key)) from error
    raise UnreadableValue(_unreadable(codec, payload, key))


def compressed(codec: int, payload: bytes) -> tuple[int, bytes]:
    """The codec and payload as they are stored with compression, if that gains a tenth.

    Example:
        >>> codec, payload = compressed(*encode("tea " * 1000))
        >>> codec == TEXT | COMPRESSED, len(payload) < 40, compressed(*encode("tea"))
        (True, True, (1, b'tea'))
    """
    frame = compression.compress(payload)
    return (codec, payload) if frame is None else (codec | COMPRESSED, frame)


def plain(codec: int, payload: bytes) -> tuple[int, bytes]:
    """The codec and payload without compression. Raises ValueError for a damaged one.

    Example:
        >>> plain(*compressed(*encode("tea " * 1000))) == encode("tea " * 1000)
        True
    """
    if codec < COMPRESSED:
        return codec, payload
    return codec & ~COMPRESSED, compression.expand(payload)


def expanded(codec: int, payload: bytes, key: str | bytes | None) -> tuple[int, bytes]:
    """As `plain`, for a reader of the key. Raises UnreadableValue."""
    try:
        return plain(codec, payload)
    except ValueError as error:
        raise UnreadableValue(_unreadable(codec & ~COMPRESSED, payload, key)) from error


def plain_bytes(codec: int, payload: bytes) -> int:
    """How long the payload is without compression, which is what limits are about.

    Raises:
        ValueError: it is damaged.

    Example:
        >>> plain_bytes(*compressed(*encode("tea " * 1000)))
        4000
    """
    return len(payload) if codec < COMPRESSED else compression.plain_bytes(payload)


def is_readable(codec: int, payload: bytes) -> bool:
    """Whether `decode` returns a value for these, in a client that has the codec, or numpy, that it
    needs. Makes none, so that it takes no memory but for a compressed payload.

    Example:
        >>> is_readable(MSGPACK, b"\\x91\\x01"), is_readable(MSGPACK, b"no"), is_readable(9, b"")
        (True, False, False)
    """
    if codec >= COMPRESSED:
        try:
            codec, payload = plain(codec, payload)
        except ValueError:
            return False
    if codec == MSGPACK:
        return _values.is_value(payload)
    if codec == TEXT:
        try:
            payload.decode()
        except UnicodeDecodeError:
            return False
        return True
    if codec == ARRAY:
        return arrays.is_readable(payload)
    if own.is_own(codec):  # by a client that has the codec; here it is only carried
        return own.name_in(payload) is not None
    return codec == BYTES or (codec == COUNTER and len(payload) == COUNTER_BYTES)


def is_number(codec: int) -> bool:
    """Whether a codec has this number, kvserve's or an application's.

    Example:
        >>> is_number(MSGPACK), is_number(64), is_number(9)
        (True, True, False)
    """
    return BYTES <= codec <= ARRAY or own.is_own(codec)


def subject(key: str | bytes | None) -> str:
    """How errors call the value of a key."""
    return "this payload" if key is None else f"the value of {key!r:.80}"


def _unreadable(codec: int, payload: bytes, key: str | bytes | None) -> str:
    name = own.name_in(payload) if own.is_own(codec) else None
    if name is not None:
        return own.foreign(subject(key), codec, name, None)
    if not is_number(codec):
        return (
            f"{subject(key)} has codec {codec}, which this kvserve does not know; a newer one "
            "may have written it: read it with that, or set or delete the key"
        )
    return (
        f"{subject(key)} cannot be read: its {len(payload)} bytes do not follow codec {codec}; "
        "it was damaged before it came here: set or delete the key"
    )
