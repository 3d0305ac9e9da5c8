"""Puts the events of several rings in order: by time, and those of one key as they happened.

Each ring is in order by itself. A key that its worker alone changes has all its events in one ring.
One that trusted writers change as well has them in several, and two things would disorder them.

Their times: each process tells the time as it knows it, in whole milliseconds. So the version
orders a key's events: it grows with each new value. Of one version, a touch comes after the set,
and what ends the record (delete, expire, evict) after both.

The moment of reading: of two rings that are read one after the other, the second may show a change
whose forerunner came into the first just after that had been read. But the forerunners of all that
one reading shows are in that reading or in the next, which begins when the first has ended. So an
event is given out when every ring has been read once more; and of that second reading only what
comes before an event that is given out.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

_RANKS = {"set": 0, "touch": 1}
_END = 2


class Told(Protocol):
    """What the order depends on."""

    @property
    def kind(self) -> str: ...
    @property
    def key(self) -> str | bytes | None: ...
    @property
    def version(self) -> int | None: ...
    @property
    def time(self) -> float: ...


E = TypeVar("E", bound=Told)
Place = tuple[int, int]
_NOWHERE: Place = (0, 0)  # before all


class InOrder(Generic[E]):
    """Gives out in order what is read from the rings.

    Args:
        read_rings: what is new in each ring, to its end.
    """

    def __init__(self, read_rings: Callable[[], Iterable[Iterable[E]]]) -> None:
        self._read_rings = read_rings
        self._waiting: list[E] = []

    def next(self) -> list[E]:
        """The next events; an empty list if nothing has happened."""
        first = self._waiting or self._read()
        if not first:
            return []
        last: dict[bytes, Place] = {}
        for event in first:
            if (name := name_of(event)) is not None:
                last[name] = max(last.get(name, _NOWHERE), place(event))
        forerunners: list[E] = []
        self._waiting = []
        for event in self._read():
            name = name_of(event)
            is_forerunner = name is not None and place(event) < last.get(name, _NOWHERE)
            (forerunners if is_forerunner else self._waiting).append(event)
        return keys_in_order(by_time(first, forerunners))

    def _read(self) -> list[E]:
        return by_time(*self._read_rings())


def by_time(*rings: Iterable[E]) -> list[E]:
    """All events by time; each ring's stay in their order, even where the clock was set back."""
    return list(heapq.merge(*rings, key=attrgetter("time")))


def name_of(event: Told) -> bytes | None:
    """The key, whose events they are whether it was stored as str or as bytes."""
    return event.key.encode() if isinstance(event.key, str) else event.key


def place(event: Told) -> Place:
    """Where an event belongs among those of its key."""
    return event.version or 0, _RANKS.get(event.kind, _END)


def keys_in_order(events: list[E]) -> list[E]:
    """The events, those of one key in the places that they have together, sorted among these."""
    indices: dict[bytes, list[int]] = {}
    for index, event in enumerate(events):
        if (name := name_of(event)) is not None:
            indices.setdefault(name, []).append(index)
    for own in indices.values():
        if len(own) > 1:
            ordered = sorted((events[index] for index in own), key=place)
            for index, event in zip(own, ordered, strict=True):
                events[index] = event
    return events
