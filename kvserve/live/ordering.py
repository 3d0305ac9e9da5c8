"""Puts the events of several rings in order: by time, and those of one key as they happened.

Each ring is in order by itself. A key that only its worker changes has all its events in one ring.
A key that trusted writers change as well has them in several, and two things can disorder them.

Times: each process takes the time itself, in whole milliseconds. So the version orders a key's
events: it grows with each new value. Among events of one version, a touch comes after the set, and
the end of the record (delete, expire, evict) after both.

The moment of reading: rings are read one after the other. Ring B may show an event whose
predecessor came into ring A just after A was read. But the predecessors of all events of one pass
are in that pass or in the next, which begins when the first has ended. So a batch is held until
every ring was read once more; of that second pass only the predecessors of the batch's events are
released with it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

_RANKS = {"set": 0, "touch": 1}
_END = 2


class Told(Protocol):
    """The fields of an event that its order depends on."""

    @property
    def kind(self) -> str: ...
    @property
    def key(self) -> str | bytes | None: ...
    @property
    def version(self) -> int | None: ...
    @property
    def time(self) -> float: ...


E = TypeVar("E", bound=Told)
Rank = tuple[int, int]
_NOWHERE: Rank = (0, 0)  # before all


class InOrder(Generic[E]):
    """Returns the events of the rings in order.

    Args:
        read_rings: returns the new events of each ring, to its end.
    """

    def __init__(self, read_rings: Callable[[], Iterable[Iterable[E]]]) -> None:
        self._read_rings = read_rings
        self._waiting: list[E] = []

    def next(self) -> list[E]:
        """The next events; an empty list if there are none."""
        first = self._waiting or self._read()
        if not first:
            return []
        last: dict[bytes, Rank] = {}
        for event in first:
            if (name := name_of(event)) is not None:
                last[name] = max(last.get(name, _NOWHERE), rank(event))
        forerunners: list[E] = []
        self._waiting = []
        for event in self._read():
            name = name_of(event)
            is_forerunner = name is not None and rank(event) < last.get(name, _NOWHERE)
            (forerunners if is_forerunner else self._waiting).append(event)
        return keys_in_order(by_time(first, forerunners))

    def _read(self) -> list[E]:
        return by_time(*self._read_rings())


def by_time(*rings: Iterable[E]) -> list[E]:
    """All events by time; each ring keeps its order, even where the clock was set back."""
    return list(heapq.merge(*rings, key=attrgetter("time")))


def name_of(event: Told) -> bytes | None:
    """The key as bytes: str and bytes of the same UTF-8 are one key."""
    return event.key.encode() if isinstance(event.key, str) else event.key


def rank(event: Told) -> Rank:
    """The rank of an event among those of its key."""
    return event.version or 0, _RANKS.get(event.kind, _END)


def keys_in_order(events: list[E]) -> list[E]:
    """The events, with those of each key sorted among the positions that they hold together."""
    indices: dict[bytes, list[int]] = {}
    for index, event in enumerate(events):
        if (name := name_of(event)) is not None:
            indices.setdefault(name, []).append(index)
    for own in indices.values():
        if len(own) > 1:
            ordered = sorted((events[index] for index in own), key=rank)
            for index, event in zip(own, ordered, strict=True):
                events[index] = event
    return events
