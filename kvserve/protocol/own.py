"""Values of an application's own codec: their form in a record, and what is said of foreign ones.

    length of the name 1 | the codec's name, UTF-8 | the codec's bytes

Workers, stores and dumps carry such a payload unread. Only a client that was given a codec of this
number and name decodes it.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, runtime_checkable

from kvserve.errors import InvalidArgument

NUMBER_FIRST: Final = 64
NUMBER_LAST: Final = 127
NAME_BYTES_MAX = 64


@runtime_checkable
class Codec(Protocol):
    """What `connect(codec=...)` takes: how an application stores what kvserve does not carry.

    `name` is printable text of at most 64 bytes, stored with each value; `number` is from 64 to
    127. `encode` returns the bytes of a value, and `decode` the value of such bytes; any number of
    threads may call them at once. What they raise reaches the caller as the cause of InvalidValue
    or UnreadableValue.

    Example:
        >>> class Rot13:
        ...     name, number = "rot13", 99
        ...     def encode(self, value): return bytes(value)[::-1]
        ...     def decode(self, data): return bytearray(data[::-1])
        >>> isinstance(Rot13(), Codec)
        True
    """

    @property
    def name(self) -> str:
        """What it is called, in records and errors."""

    @property
    def number(self) -> int:
        """Its number, from 64 to 127."""

    def encode(self, value: Any, /) -> bytes:
        """The bytes of a value."""

    def decode(self, data: bytes, /) -> Any:
        """The value of such bytes."""


@runtime_checkable
class LearningCodec(Codec, Protocol):
    """A codec that `memoize` tells the annotations of the functions that it decorates."""

    def learn(self, annotation: Any, /) -> bool:
        """Carries the types that an annotation names from now on; whether it names some."""


def head_of(codec: Codec) -> bytes:
    """What the payloads of a codec begin with.

    Raises:
        InvalidArgument: it is no codec.
    """
    name, number = getattr(codec, "name", None), getattr(codec, "number", None)
    if not isinstance(codec, Codec) or not callable(codec.encode) or not callable(codec.decode):
        raise InvalidArgument(
            f"codec = {codec!r:.80}: use an object with name, number, encode and decode, "
            "such as kvserve.codecs.json()"
        )
    if type(number) is not int or not is_own(number):
        raise InvalidArgument(
            f"codec.number = {number!r:.80}: use {NUMBER_FIRST} to {NUMBER_LAST}; kvserve has "
            "the others"
        )
    raw = name.encode(errors="replace") if isinstance(name, str) else b""
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(raw) <= NAME_BYTES_MAX:
        raise InvalidArgument(
            f"codec.name = {name!r:.80}: use printable text of 1 to {NAME_BYTES_MAX} bytes"
        )
    return bytes((len(raw),)) + raw


def is_own(number: int) -> bool:
    """Whether a number belongs to applications' codecs.

    Example:
        >>> is_own(3), is_own(64)
        (False, True)
    """
    return NUMBER_FIRST <= number <= NUMBER_LAST


def name_in(payload: bytes) -> str | None:
    """The name of the codec that a payload begins with; None if there is none.

    Example:
        >>> name_in(b"\\x04jsonrest"), name_in(b"\\x09json")
        ('json', None)
    """
    length = payload[0] if payload else 0
    if not 0 < length <= NAME_BYTES_MAX or len(payload) <= length:
        return None
    try:
        name = payload[1 : 1 + length].decode()
    except UnicodeDecodeError:
        return None
    return name if name.isprintable() else None


def foreign(subject: str, number: int, name: str, mine: tuple[int, str] | None) -> str:
    """Why a value of another codec cannot be read, and how to mend that.

    Args:
        subject: which value.
        number, name: of the codec that encoded it.
        mine: those of this client's codec.
    """
    has = "has no codec" if mine is None else f"has codec {mine[1]!r}, number {mine[0]}"
    return (
        f"{subject} was encoded by the application's codec {name!r}, number {number}, and this "
        f"client {has}: read it with connect(codec=...) and that codec, or set or delete the key"
    )
