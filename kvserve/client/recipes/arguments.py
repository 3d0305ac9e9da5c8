"""A call's arguments as text that is the same in every process and version of Python. No I/O.

Different arguments give different texts, equal ones the same. Unless `typed`, an int and
a float that are equal are the same, as for functools.lru_cache.
"""

from __future__ import annotations

import datetime
import enum
import inspect
import json
import re
import uuid
import zoneinfo
from collections.abc import Iterable, Mapping
from typing import Any

from kvserve.client.recipes.scripts import Unsupported, class_name
from kvserve.errors import InvalidArgument

_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_DECIMAL_BITS_MAX = 256  # Python refuses to write very long numbers in decimal


def canonical_call(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, typed: bool
) -> str:
    """The arguments of a call, each with its name, defaults included.

    Args:
        signature: the function's.
        args, kwargs: the call's.
        typed: whether 1 and 1.0 differ.

    Raises:
        TypeError: the function does not take these.
        InvalidArgument: one of them has a type without such a text; the message names it.

    Example:
        >>> def load(user_id, *, tags=()): ...
        >>> canonical_call(inspect.signature(load), (7,), {"tags": ["a"]}, typed=False)
        'user_id=7,tags=["a"]'
    """
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    parts = []
    for name, value in bound.arguments.items():
        try:
            parts.append(f"{name}={canonical(value, typed)}")
        except (Unsupported, RecursionError) as error:
            raise InvalidArgument(
                f"memoize: argument {name!r} is or contains {error}, which cannot be part of a "
                "key; give key=, a function that makes the key from a call's arguments"
            ) from None
    return ",".join(parts)


def canonical(value: Any, typed: bool) -> str:
    """A value as text of this kind.

    Raises:
        Unsupported: it has none.
        RecursionError: it contains itself.
    """
    if isinstance(value, enum.Enum):
        # By name, since the value may be anything; but a combination of flags has none in 3.11.
        which = str(value.value) if isinstance(value, enum.Flag) else _text(value.name)
        return f"{_enum_name(type(value))}({which})"
    # Exact types: what a subclass adds to its parent's value is not known.
    kind = type(value)
    if kind in (list, tuple, set, frozenset, dict):
        return _canonical_collection(value, typed)
    if value is None or kind is bool:
        return str(value)
    if kind is str:
        return _text(value)
    if kind is bytes:
        return f'b"{value.hex()}"'
    if kind in (int, float):
        return _canonical_number(value, typed)
    if kind is datetime.datetime:
        return f"datetime({value.isoformat()},{_zone(value.tzinfo)},{value.fold})"
    if kind is datetime.date:
        return f"date({value.isoformat()})"
    if kind is datetime.timedelta:
        return f"timedelta({value.days},{value.seconds},{value.microseconds})"
    if kind is uuid.UUID:
        return f"UUID({value})"
    raise Unsupported(f"a {kind.__module__}.{kind.__qualname__}")


def _enum_name(kind: type) -> str:
    try:
        return class_name(kind)
    except Unsupported as error:
        raise Unsupported(f"a {kind.__qualname__}, which {error}") from None


def _text(text: str) -> str:
    """A str as JSON writes it, except surrogate pairs: in JSON they stand for one character."""
    if not _SURROGATE_PAIR.search(text):
        return json.dumps(text)
    pieces = [
        f"\\u{{{ord(each):x}}}" if "\ud800" <= each <= "\udfff" else json.dumps(each)[1:-1]
        for each in text
    ]
    return f'"{"".join(pieces)}"'


def _canonical_number(value: int | float, typed: bool) -> str:
    if isinstance(value, float) and (typed or not value.is_integer()):
        return repr(value)
    whole = int(value)
    return str(whole) if whole.bit_length() <= _DECIMAL_BITS_MAX else hex(whole)


def _canonical_collection(value: Any, typed: bool) -> str:
    if type(value) is dict:
        pairs = [f"{canonical(k, typed)}:{canonical(v, typed)}" for k, v in value.items()]
        return f"{{{_joined(sorted(pairs))}}}"
    items = [canonical(item, typed) for item in value]
    if type(value) is list:
        return f"[{_joined(items)}]"
    if type(value) is tuple:
        return f"({_joined(items)})"
    kind = "frozenset" if typed and type(value) is frozenset else "set"
    return f"{kind}({_joined(sorted(items))})"


def _joined(items: Iterable[str]) -> str:
    return ",".join(items)


def _zone(zone: datetime.tzinfo | None) -> str:
    """A time zone's name: two zones may agree at one moment, and not at the next."""
    if zone is None:
        return ""
    if type(zone) is datetime.timezone:
        return "fixed"  # isoformat has its offset
    if type(zone) is zoneinfo.ZoneInfo and zone.key is not None:
        return zone.key
    raise Unsupported(f"a time zone that is a {type(zone).__module__}.{type(zone).__qualname__}")
