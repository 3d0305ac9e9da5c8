"""Types, and codecs of one's own, for the tests of what applications store."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

NOTED: list[str] = []


def note(text: str) -> None:
    """Notes that something ran."""
    NOTED.append(text)


class Color(enum.Enum):
    """A member comes back as itself."""

    RED = "red"


class Access(enum.Flag):
    """Members that can be combined."""

    READ = 1
    WRITE = 2


class Point(NamedTuple):
    """A tuple with names."""

    x: float
    y: float = 0.0


class Prices(TypedDict):
    """A plain dict, whose values need the codec."""

    tea: decimal.Decimal
    at: Point


@dataclass(frozen=True, slots=True)
class Address:
    """One that its own code cannot change."""

    street: str
    where: Point


@dataclass
class User:
    """One with all kinds of fields."""

    id: uuid.UUID
    name: str
    born: datetime.date
    seen: datetime.datetime
    homes: list[Address] = field(default_factory=list)
    color: Color = Color.RED
    access: Access = Access.READ
    friends: dict[str, User] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    made: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.made += 1


class SafeString(str):
    """As Django's."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


class Reversing:
    """A codec of one's own: a text that is marked comes back marked."""

    name = "reversing"
    number = 99

    def encode(self, value: Any, /) -> bytes:
        """The text backwards."""
        if type(value) is not SafeString:
            raise KeyError(f"no {type(value).__name__}")
        return str.__str__(value)[::-1].encode()

    def decode(self, data: bytes, /) -> Any:
        """Forwards again."""
        if data == b"":
            raise LookupError("nothing to turn")
        return SafeString(data.decode()[::-1])


class Doing(Reversing):
    """One that does something else first, or gives back something else."""

    def __init__(self, encoding: Any = None, decoding: Any = None) -> None:
        self._encoding = encoding
        self._decoding = decoding

    def encode(self, value: Any, /) -> bytes:
        """What it is told to."""
        if self._encoding is None:
            return super().encode(value)
        found: bytes = self._encoding(value)
        return found

    def decode(self, data: bytes, /) -> Any:
        """What it is told to."""
        return super().decode(data) if self._decoding is None else self._decoding(data)


def some_user(**more: Any) -> User:
    """A user with something in every field."""
    user = User(
        uuid.UUID(int=7),
        "Ada",
        datetime.date(1815, 12, 10),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6),
        [Address("St James's Square", Point(1, 2.5))],
        access=Access.READ | Access.WRITE,
        tags={"a", "b"},
        **more,
    )
    user.friends["Charles"] = User(uuid.UUID(int=8), "C", user.born, user.seen)
    return user
