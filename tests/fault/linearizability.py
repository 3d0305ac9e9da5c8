"""Decides whether a concurrent history of one key could have happened one operation at a time.

The algorithm is Wing and Gong's search (JPDC 1993) with Lowe's memory of visited states (2017): an
operation may come next if it began before every other pending one had ended, and did what the
register would have answered. Histories of several keys are checked key by key, which is enough
(linearizability is local: Herlihy and Wing, TOPLAS 1990).

An operation without an answer may have happened at any time after it began, or never. One that a
client sends again on its own, after its worker died, may have happened twice: it gets an optional
double.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

UNKNOWN = "unknown"  # the answer that never came
ANY_VERSION = -1  # of a value whose version nobody has seen yet

# What the register holds: a value and its version, or None.
State = tuple[Any, int] | None


@dataclass(frozen=True)
class Event:
    """One operation as its process saw it.

    Args:
        name: get, gets, set, delete, incr or cas.
        argument: the value of a set; the amount of an incr; (version, value) of a cas.
        answer: what it returned, or UNKNOWN.
        began, ended: nanoseconds on the host's monotonic clock.
    """

    name: str
    argument: Any
    answer: Any
    began: int
    ended: float

    @property
    def is_optional(self) -> bool:
        """Whether it may not have happened at all."""
        return self.answer == UNKNOWN


def with_doubles(events: Iterable[Event], deaths: Iterable[tuple[int, int]]) -> list[Event]:
    """Adds what may have happened twice: sets and deletes that a worker's death fell into.

    Args:
        events: of one key.
        deaths: of each, the moments before and after the kill; it died at one between them.
    """
    deaths = list(deaths)
    found = []
    for event in events:
        found.append(event)
        if event.name in ("set", "delete") and not event.is_optional:
            for before, after in deaths:
                if event.began <= after and before <= event.ended:
                    found.append(replace(event, answer=UNKNOWN))
    return found


def is_linearizable(events: list[Event]) -> bool:
    """Whether there is an order of the events that a single register explains.

    Example:
        >>> write = Event("set", 1, 7, 0, 10)
        >>> is_linearizable([write, Event("get", None, 1, 5, 8), Event("get", None, 1, 9, 12)])
        True
        >>> is_linearizable([write, Event("get", None, 1, 5, 8), Event("get", None, None, 9, 12)])
        False
    """
    order = sorted(
        (replace(event, ended=math.inf) if event.is_optional else event for event in events),
        key=lambda event: event.began,
    )
    required = sum(1 << n for n, event in enumerate(order) if not event.is_optional)
    visited: set[tuple[int, State]] = set()
    waiting: list[tuple[int, State]] = [(0, None)]
    while waiting:
        done, state = waiting.pop()
        if done & required == required:
            return True
        for number in _candidates(order, done):
            for following in _apply(order[number], state):
                place = (done | 1 << number, following)
                if place not in visited:
                    visited.add(place)
                    waiting.append(place)
    return False


def _candidates(order: list[Event], done: int) -> list[int]:
    """Those not done that began before the first end among those not done."""
    first_end = math.inf
    candidates = []
    first_pending = (~done & (done + 1)).bit_length() - 1
    for number in range(first_pending, len(order)):
        event = order[number]
        if event.began > first_end:
            break
        if not done >> number & 1:
            candidates.append(number)
            first_end = min(first_end, event.ended)
    return [number for number in candidates if order[number].began <= first_end]


def _apply(event: Event, state: State) -> list[State]:
    """The states in which the register may be afterwards; none if the answer does not fit."""
    value, version = state if state is not None else (None, 0)
    answered = event.answer != UNKNOWN
    if event.name == "get":
        return [state] if not answered or event.answer == value else []
    if event.name == "gets":
        return _apply_gets(event, state)
    if event.name == "set":
        return [(event.argument, event.answer if answered else ANY_VERSION)]
    if event.name == "delete":
        return [None] if not answered or event.answer == (state is not None) else []
    if event.name == "incr":
        total = (value or 0) + event.argument
        return [(total, ANY_VERSION)] if not answered or event.answer == total else []
    assert event.name == "cas"
    expected, new = event.argument
    # A version that nobody has seen may be the one that is expected.
    may_hold = state is not None and version in (expected, ANY_VERSION)
    must_hold = state is not None and version == expected
    outcomes: list[State] = []
    if may_hold and event.answer in (True, UNKNOWN):
        outcomes.append((new, ANY_VERSION))
    if not must_hold and event.answer in (False, UNKNOWN):
        outcomes.append(state)
    return outcomes


def _apply_gets(event: Event, state: State) -> list[State]:
    if event.answer == UNKNOWN:
        return [state]
    if event.answer[1] is None:
        return [state] if state is None else []
    if state is None or event.answer[0] != state[0]:
        return []
    if state[1] not in (ANY_VERSION, event.answer[1]):
        return []
    return [(event.answer[0], event.answer[1])]
