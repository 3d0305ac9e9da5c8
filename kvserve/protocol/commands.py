"""One record per command: the source for dispatch, checks of frames, retries and priorities.

A request's arguments are a msgpack array; `fields` names each with the types that it may have.
Values travel as (codec, payload), times as whole milliseconds, 0 for "never expires". `replace` and
`cas` with a ttl of `limits.LIFE_MS_KEPT` keep the expiry of what they replace.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import NoneType

from kvserve.errors import ProtocolError


class Priority(IntEnum):
    """The priority of a queue message: higher is received first."""

    BULK = 0
    SINGLE = 1
    CONTROL = 2


class Window(IntEnum):
    """What a limiter's window is; see kvserve/execution/limiting.py."""

    FIXED = 0
    LOG = 1
    COUNTER = 2


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """What both ends must know of a command.

    `idempotent` means that a client whose worker died may send it again: a second execution
    leaves the table as the first did. (Its answer may differ: a repeated delete reports that
    nothing was there.)

    `shapes` are all sequences of types that the arguments may have: looking one up takes a third of
    the time of checking the types one by one.
    """

    name: str
    code: int
    priority: Priority
    idempotent: bool
    fields: tuple[tuple[str, tuple[type, ...]], ...] = ()

    shapes: frozenset[tuple[type, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shapes = frozenset(itertools.product(*(types for _, types in self.fields)))
        object.__setattr__(self, "shapes", shapes)

    def check(self, arguments: Sequence[object]) -> None:
        """Raises ProtocolError unless the arguments have this command's number and types."""
        if tuple(map(type, arguments)) in self.shapes:
            return
        if len(arguments) != len(self.fields):
            raise ProtocolError(
                f"{self.name} takes {len(self.fields)} arguments, not {len(arguments)}"
            )
        for (name, types), argument in zip(self.fields, arguments, strict=True):
            if type(argument) not in types:
                raise ProtocolError(f"{self.name}: {name} is a {type(argument).__name__}")


_KEY = ("key", (str, bytes))
_CODEC = ("codec", (int,))
_PAYLOAD = ("payload", (bytes,))
_TTL_MS = ("ttl_ms", (int,))
_STORE = (_KEY, _CODEC, _PAYLOAD, _TTL_MS)

HELLO = Command("hello", 1, Priority.CONTROL, True, (("protocol_version", (int,)), ("pid", (int,))))
PING = Command("ping", 2, Priority.CONTROL, True)
STATS = Command("stats", 3, Priority.CONTROL, True)
GET = Command("get", 10, Priority.SINGLE, True, (_KEY,))
TTL = Command("ttl", 11, Priority.SINGLE, True, (_KEY,))
SET = Command("set", 12, Priority.SINGLE, True, _STORE)
ADD = Command("add", 13, Priority.SINGLE, False, _STORE)
REPLACE = Command("replace", 14, Priority.SINGLE, False, _STORE)
CAS = Command("cas", 15, Priority.SINGLE, False, (*_STORE, ("version", (int,))))
DELETE = Command("delete", 16, Priority.SINGLE, True, (_KEY,))
TOUCH = Command("touch", 17, Priority.SINGLE, True, (_KEY, _TTL_MS))
INCR = Command(
    "incr",
    18,
    Priority.SINGLE,
    False,
    (_KEY, ("delta", (int,)), ("initial", (int, NoneType)), _TTL_MS),
)
DELETE_VERSION = Command("delete_version", 19, Priority.SINGLE, False, (_KEY, ("version", (int,))))
LIMIT = Command(
    "limit",
    20,
    Priority.SINGLE,
    False,
    (_KEY, ("rate", (int,)), ("per_ms", (int,)), ("cost", (int,)), ("window", (int,))),
)
GET_RECORD = Command("get_record", 21, Priority.SINGLE, True, (_KEY,))
LIMIT_PEEK = Command(
    "limit_peek", 22, Priority.SINGLE, True, (_KEY, ("per_ms", (int,)), ("window", (int,)))
)
LIMIT_RESET = Command("limit_reset", 23, Priority.SINGLE, True, (_KEY,))
BATCH = Command("batch", 30, Priority.BULK, False, (("operations", (list,)),))
SCAN = Command(
    "scan",
    31,
    Priority.BULK,
    True,
    (("shard", (int,)), ("bucket", (int,)), ("prefix", (bytes,))),
)
FLUSH = Command("flush", 32, Priority.BULK, True)
VERIFY = Command("verify", 33, Priority.BULK, True, (("shard", (int,)),))
# For many keys: lists of what the single command takes, and one answer for all.
_KEYS = ("keys", (list,))
GET_MANY = Command("get_many", 34, Priority.BULK, True, (_KEYS,))
SET_MANY = Command(
    "set_many",
    35,
    Priority.BULK,
    True,
    (_KEYS, ("codecs", (bytes,)), ("payloads", (list,)), _TTL_MS),  # a codec is one byte
)
DELETE_MANY = Command("delete_many", 36, Priority.BULK, True, (_KEYS,))

ALL = (
    HELLO, PING, STATS, GET, TTL, SET, ADD, REPLACE, CAS, DELETE, TOUCH, INCR,
    DELETE_VERSION, LIMIT, GET_RECORD, LIMIT_PEEK, LIMIT_RESET, BATCH, SCAN, FLUSH,
    VERIFY, GET_MANY, SET_MANY, DELETE_MANY,
)  # fmt: skip
BY_CODE = {command.code: command for command in ALL}
BY_NAME = {command.name: command for command in ALL}
BATCHABLE = frozenset(
    {GET, TTL, SET, ADD, REPLACE, CAS, DELETE, TOUCH, INCR, DELETE_VERSION, LIMIT, GET_RECORD}
)
READS_OF_VALUES = frozenset({GET.code, GET_RECORD.code})  # their answers are as long as values
# Of a limiter, whose keys only the worker writes: a trusted writer sends these as well.
LIMITING = frozenset({LIMIT, LIMIT_PEEK, LIMIT_RESET})
SINGLE_OF = {GET_MANY.code: GET, SET_MANY.code: SET, DELETE_MANY.code: DELETE}

assert len(BY_CODE) == len(BY_NAME) == len(ALL)
