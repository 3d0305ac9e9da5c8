"""How a client turns values into bytes and back: the only place where this is decided.

Both clients, their namespaces, pipelines and recipes, trusted writers and the reader of the table
take `encode` and `decode` from one `Values`, which `Options.values` makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from kvserve.errors import InvalidValue, UnreadableValue
from kvserve.limits import VALUE_BYTES_MAX
from kvserve.protocol import codec, own
from kvserve.protocol.codec import Value
from kvserve.protocol.own import Codec, LearningCodec


class Decode(Protocol):
    """See `kvserve.protocol.codec.decode`."""

    def __call__(self, codec: int, payload: bytes, key: str | bytes | None = None, /) -> Value: ...


class Values(NamedTuple):
    """The values of one client. What it does not change, it does as kvserve's own codecs do.

    Args:
        encode: returns a codec and a payload. Raises InvalidValue, ValueTooLarge.
        decode: returns the value of a codec and a payload. The key, if one is given, is for the
            error. Raises UnreadableValue. A reader in shared memory reads codecs 0 to 2 itself.
        as_is_bytes_max: bytes and ASCII text up to this length may be stored as they are, without
            asking `encode`.
        learning: the application's codec, if `memoize` is to tell it what functions return.

    Example:
        >>> values = Values()
        >>> values.encode("tea"), values.decode(1, b"tea")
        ((1, b'tea'), 'tea')
    """

    encode: Callable[[Value], tuple[int, bytes]] = codec.encode
    decode: Decode = codec.decode
    as_is_bytes_max: int = VALUE_BYTES_MAX
    learning: LearningCodec | None = None


NATIVE = Values()


def with_own(own_codec: Codec) -> Values:
    """Values of which the application's codec carries those that kvserve does not carry exactly.

    Raises:
        InvalidArgument: it is no codec.
    """
    head = own.head_of(own_codec)
    name, number = own_codec.name, own_codec.number  # as they are now, whatever it does later

    def encode(value: Value) -> tuple[int, bytes]:
        try:
            return codec.encode_exactly(value)
        except InvalidValue as refused:
            reason = str(refused)
        # Outside, so that the error has one cause.
        return number, b"".join((head, _encoded(own_codec, name, value, reason)))

    def decode(codec_id: int, payload: bytes, key: str | bytes | None = None, /) -> Value:
        if codec_id >= codec.COMPRESSED:
            codec_id, payload = codec.expanded(codec_id, payload, key)
        if codec_id != number:
            if own.is_own(codec_id):
                raise _foreign(codec_id, payload, key, (number, name))
            return codec.decode(codec_id, payload, key)
        if not payload.startswith(head):
            raise _foreign(codec_id, payload, key, (number, name))
        try:
            return own_codec.decode(payload[len(head) :])
        except MemoryError:
            raise
        except Exception as error:
            raise UnreadableValue(
                f"{codec.subject(key)} was refused by the codec {name!r}, number {number}: "
                f"{type(error).__name__}: {error}; set or delete the key"
            ) from error

    learning = own_codec if isinstance(own_codec, LearningCodec) else None
    return Values(encode, decode, learning=learning)


def _encoded(own_codec: Codec, name: str, value: Value, reason: str) -> bytes:
    try:
        data: Any = own_codec.encode(value)
    except MemoryError:
        raise
    except Exception as error:
        raise InvalidValue(
            f"the codec {name!r} cannot encode a {type(value).__qualname__}: "
            f"{type(error).__name__}: {error}; and for kvserve itself, {reason}"
        ) from error
    if not isinstance(data, bytes):
        raise InvalidValue(
            f"the codec {name!r} returned a {type(data).__qualname__} from encode; it must "
            "return bytes"
        )
    return data


def _foreign(
    number: int, payload: bytes, key: str | bytes | None, mine: tuple[int, str]
) -> UnreadableValue:
    name = own.name_in(payload)
    if name is None:  # damaged
        try:
            codec.decode(number, payload, key)
        except UnreadableValue as error:
            return error
    return UnreadableValue(own.foreign(codec.subject(key), number, name or "", mine))


def compressing(values: Values, from_bytes: int) -> Values:
    """The same values; payloads of so many bytes and more are compressed where that gains.

    Example:
        >>> values = compressing(NATIVE, 1000)
        >>> codec, payload = values.encode("tea " * 1000)
        >>> len(payload) < 40, values.decode(codec, payload) == "tea " * 1000
        (True, True)
    """
    plainly = values.encode

    def encode(value: Value) -> tuple[int, bytes]:
        codec_id, payload = plainly(value)
        if len(payload) < from_bytes:
            return codec_id, payload
        return codec.compressed(codec_id, payload)

    as_is_bytes_max = min(values.as_is_bytes_max, from_bytes - 1)
    return values._replace(encode=encode, as_is_bytes_max=as_is_bytes_max)
