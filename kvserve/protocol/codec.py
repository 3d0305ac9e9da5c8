"""Values to bytes and back. Every record carries its codec, so a str comes back as a str.

Nothing here executes what it reads: there is no pickle. A value comes back exactly as it was, or is
refused; docs/values.md has the table.
"""

from __future__ import annotations

from typing import Any, Final

from kvserve import native
from kvserve.errors import InvalidValue, UnreadableValue
from kvserve.limits import COUNTER_MAX, COUNTER_MIN, TAGS_MAX

native.load("kvserve.protocol._values")

from kvserve.protocol import _values  # noqa: E402 - only now is it known to be there

# The codecs' numbers, which are part of the table's layout.
BYTES: Final = 0
TEXT: Final = 1  # UTF-8
COUNTER: Final = 2  # int: a signed 64-bit little-endian cell that incr changes in place
MSGPACK: Final = 3  # None, bool, float, list, tuple, dict, datetime, int beyond a counter's range

# Added to a codec's number where a value is stored: the payload begins with tags. See kv_tag in
# table/core/layout.h.
TAGGED: Final = 0x100
_TAGS_HEAD_BYTES = 8
_TAG_BYTES = 16

Value = Any  # what the codecs carry; narrower types would reject valid dicts (dict is invariant)

COUNTER_BYTES = 8


def encode(value: Value) -> tuple[int, bytes]:
    """The codec and the payload of `value`.

    Args:
        value: bytes, str, int (from -2**63 to 2**64 - 1), None, bool, float, datetime with a time
            zone, or a list, tuple or dict of these. Subclasses are refused, except bool. A
            bytearray and a memoryview are stored as bytes.

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
    if kind is bytearray or kind is memoryview:
        try:
            return BYTES, bytes(value)
        except (ValueError, BufferError) as error:
            raise InvalidValue(f"this {kind.__name__} cannot be read: {error}") from None
    return MSGPACK, _values.pack(value)


def without_tags(payload: bytes) -> bytes:
    """The payload behind the tags that it begins with.

    Raises:
        InvalidValue: it does not begin with tags.

    Example:
        >>> without_tags((1).to_bytes(8, "little") + 16 * b"t" + b"payload")
        b'payload'
    """
    count = int.from_bytes(payload[:_TAGS_HEAD_BYTES], "little")
    end = _TAGS_HEAD_BYTES + count * _TAG_BYTES
    if not 1 <= count <= TAGS_MAX or len(payload) < end:
        raise InvalidValue(f"a value of {len(payload)} bytes, {count} tags among them")
    return payload[end:]


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
        if codec == MSGPACK:
            return _values.unpack(payload)
        if codec == BYTES:
            return payload
        if codec == TEXT:
            return payload.decode()
        if codec == COUNTER and len(payload) == COUNTER_BYTES:
            return int.from_bytes(payload, "little", signed=True)
    except ValueError as error:
        raise UnreadableValue(_unreadable(codec, payload, key)) from error
    raise UnreadableValue(_unreadable(codec, payload, key))


def is_readable(codec: int, payload: bytes) -> bool:
    """Whether `decode` returns a value for these; makes none, so that it takes no memory.

    Example:
        >>> is_readable(MSGPACK, b"\\x91\\x01"), is_readable(MSGPACK, b"no"), is_readable(9, b"")
        (True, False, False)
    """
    if codec == MSGPACK:
        return _values.is_value(payload)
    if codec == TEXT:
        try:
            payload.decode()
        except UnicodeDecodeError:
            return False
        return True
    return codec == BYTES or (codec == COUNTER and len(payload) == COUNTER_BYTES)


def _unreadable(codec: int, payload: bytes, key: str | bytes | None) -> str:
    subject = "this payload" if key is None else f"the value of {key!r:.80}"
    if not BYTES <= codec <= MSGPACK:
        return (
            f"{subject} has codec {codec}, which this kvserve does not know; a newer one may have "
            "written it: read it with that, or set or delete the key"
        )
    return (
        f"{subject} cannot be read: its {len(payload)} bytes do not follow codec {codec}; it was "
        "damaged before it came here: set or delete the key"
    )
