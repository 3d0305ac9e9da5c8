"""Values to bytes and back. Every record carries its codec, so a str comes back as a str.

Nothing here executes what it reads: there is no pickle. Tuples travel as a msgpack extension, so
that they come back as tuples, also as keys of a dict.
"""

from __future__ import annotations

import datetime
import functools
from typing import Any, Final

import msgpack

from kvserve.errors import InternalError, InvalidValue
from kvserve.limits import COUNTER_MAX, COUNTER_MIN

# The codecs' numbers, which are part of the table's layout.
BYTES: Final = 0
TEXT: Final = 1  # UTF-8
COUNTER: Final = 2  # int: a signed 64-bit little-endian cell that incr changes in place
MSGPACK: Final = 3  # None, bool, float, list, tuple, dict, datetime

Value = Any  # what the codecs carry; narrower types would reject valid dicts (dict is invariant)

_EXTENSION_TUPLE = 1
_TUPLE_DEPTH_MAX = 16  # each level costs a reader about 40 KiB of C stack
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
COUNTER_BYTES = 8


def encode(value: Value) -> tuple[int, bytes]:
    """The codec and the payload of `value`.

    Args:
        value: bytes, str, int (signed, 64 bits), None, bool, float, datetime with a time zone, or
            a list, tuple or dict of these.

    Returns:
        The number of the codec, and the payload in bytes.

    Raises:
        InvalidValue: any other type, at any depth.

    Example:
        >>> encode("é"), encode(7)
        ((1, b'\\xc3\\xa9'), (2, b'\\x07\\x00\\x00\\x00\\x00\\x00\\x00\\x00'))
    """
    if isinstance(value, bytes):
        return BYTES, value if type(value) is bytes else bytes(value)
    if isinstance(value, str):
        try:
            return TEXT, value.encode()
        except UnicodeEncodeError as error:
            raise InvalidValue(f"this str cannot be encoded as UTF-8: {error.reason}") from None
    if isinstance(value, int) and not isinstance(value, bool):
        if not COUNTER_MIN <= value <= COUNTER_MAX:
            raise InvalidValue("an int must fit in 64 bits with its sign; store it as str")
        return COUNTER, int(value).to_bytes(COUNTER_BYTES, "little", signed=True)
    if isinstance(value, (bytearray, memoryview)):
        return BYTES, bytes(value)
    return MSGPACK, _pack(value)


def decode(codec: int, payload: bytes) -> Value:
    """The value that `encode` gave this codec and payload for.

    Raises:
        InternalError: no codec has this number, or the payload does not follow it.

    Example:
        >>> decode(*encode({"name": "Ada", "at": (1, 2)}))
        {'name': 'Ada', 'at': (1, 2)}
    """
    try:
        if codec == BYTES:
            return payload
        if codec == TEXT:
            return payload.decode()
        if codec == COUNTER:
            return int.from_bytes(payload, "little", signed=True)
        if codec == MSGPACK:
            return _unpack(payload)
    except (
        ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException
    ) as error:  # fmt: skip
        raise InternalError(f"a payload of {len(payload)} bytes is not of codec {codec}") from error
    raise InternalError(f"no codec has number {codec}; a newer kvserve may have written it")


def _pack(value: Value, depth: int = 0) -> bytes:
    if depth > _TUPLE_DEPTH_MAX:
        raise InvalidValue(f"tuples nested more than {_TUPLE_DEPTH_MAX} deep; use lists")
    fallback = functools.partial(_fallback, depth)
    try:
        packed: bytes = msgpack.packb(value, default=fallback, strict_types=True)
    except InvalidValue:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidValue(f"a {type(value).__name__} that cannot be stored: {error}") from None
    return packed


def _fallback(depth: int, value: object) -> object:
    """What strict msgpack does not know by its exact type: tuples, and subclasses of the rest."""
    if type(value) is tuple:
        return msgpack.ExtType(_EXTENSION_TUPLE, _pack(list(value), depth + 1))
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, list):
        return list(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, datetime.datetime):
        return _timestamp(value)
    raise TypeError(
        f"{type(value).__name__} is not among bytes, str, int, None, bool, float, list, tuple, "
        "dict and datetime"
    )


def _timestamp(moment: datetime.datetime) -> msgpack.Timestamp:
    """The moment in UTC, as it is decoded; msgpack alone would pack some that cannot be."""
    if moment.utcoffset() is None:
        raise TypeError("a datetime without a time zone; give it one, such as datetime.UTC")
    since = moment.astimezone(datetime.UTC) - _EPOCH
    return msgpack.Timestamp(since.days * 86_400 + since.seconds, since.microseconds * 1000)


def _unpack(payload: bytes, depth: int = 0) -> Value:
    if depth > _TUPLE_DEPTH_MAX:
        raise ValueError(f"tuples nested more than {_TUPLE_DEPTH_MAX} deep")
    return msgpack.unpackb(
        payload, timestamp=3, strict_map_key=False, ext_hook=_RESTORE_AT_DEPTH[depth]
    )


def _restore_extension(depth: int, code: int, data: bytes) -> object:
    if code == _EXTENSION_TUPLE:
        return tuple(_unpack(data, depth + 1))
    return msgpack.ExtType(code, data)  # somebody's own, which he gets back as he gave it


_RESTORE_AT_DEPTH = tuple(
    functools.partial(_restore_extension, depth) for depth in range(_TUPLE_DEPTH_MAX + 1)
)
