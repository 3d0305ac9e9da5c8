"""How a client turns values into bytes and back: the only place where this is decided.

Both clients, their namespaces, pipelines and recipes, trusted writers and the reader of the table
take `encode` and `decode` from one `Values`, which `Options.values` makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from kvserve.limits import VALUE_BYTES_MAX
from kvserve.protocol import codec
from kvserve.protocol.codec import Value


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

    Example:
        >>> values = Values()
        >>> values.encode("tea"), values.decode(1, b"tea")
        ((1, b'tea'), 'tea')
    """

    encode: Callable[[Value], tuple[int, bytes]] = codec.encode
    decode: Decode = codec.decode
    as_is_bytes_max: int = VALUE_BYTES_MAX


NATIVE = Values()


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
