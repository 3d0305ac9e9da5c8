"""Values of the standard library that models often hold, each as a plain value and back."""

from __future__ import annotations

import datetime
import decimal
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, Final, NamedTuple


class Leaf(NamedTuple):
    """How a type is stored."""

    kind: type
    store: Callable[[Any], Any]
    restore: Callable[[Any], Any]


def _moment(value: datetime.datetime | datetime.time) -> tuple[str, int, Any]:
    return value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _zone(value.tzinfo)


def _zone(zone: datetime.tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is datetime.timezone:
        since = zone.utcoffset(None)
        name = zone.tzname(None)
        named = name != datetime.timezone(since).tzname(None)
        return ((since.days, since.seconds, since.microseconds), name if named else None)
    if type(zone) is zoneinfo.ZoneInfo and zone.key is not None:
        return zone.key
    raise TypeError(f"a time zone of type {type(zone).__qualname__}: use a ZoneInfo or a timezone")


def _as_zone(stored: Any) -> datetime.tzinfo | None:
    if stored is None:
        return None
    if isinstance(stored, str):
        return zoneinfo.ZoneInfo(stored)
    (days, seconds, microseconds), name = stored
    since = datetime.timedelta(days, seconds, microseconds)
    return datetime.timezone(since) if name is None else datetime.timezone(since, name)


def _as_datetime(stored: tuple[str, int, Any]) -> datetime.datetime:
    text, fold, zone = stored
    return datetime.datetime.fromisoformat(text).replace(tzinfo=_as_zone(zone), fold=fold)


def _as_time(stored: tuple[str, int, Any]) -> datetime.time:
    text, fold, zone = stored
    return datetime.time.fromisoformat(text).replace(tzinfo=_as_zone(zone), fold=fold)


def _as_bytearray(stored: Any) -> bytearray:
    if type(stored) is not bytes:  # a number would be a length
        raise ValueError("a bytearray of something else than bytes")
    return bytearray(stored)


# By name; the items of a set are stored as its own items are, so it is not among these.
LEAVES: Final = {
    "date": Leaf(datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": Leaf(datetime.time, _moment, _as_time),
    "datetime": Leaf(datetime.datetime, _moment, _as_datetime),
    "timedelta": Leaf(
        datetime.timedelta,
        lambda value: (value.days, value.seconds, value.microseconds),
        lambda stored: datetime.timedelta(*stored),
    ),
    "decimal": Leaf(decimal.Decimal, str, decimal.Decimal),
    "uuid": Leaf(uuid.UUID, lambda value: value.bytes, lambda stored: uuid.UUID(bytes=stored)),
    "bytearray": Leaf(bytearray, bytes, _as_bytearray),
    "complex": Leaf(
        complex, lambda value: (value.real, value.imag), lambda stored: complex(*stored)
    ),
}
NAMES: Final = {leaf.kind: name for name, leaf in LEAVES.items()}
