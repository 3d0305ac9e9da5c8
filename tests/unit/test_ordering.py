"""The order of events that come in several rings."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from kvserve.live.feed import Event
from kvserve.live.ordering import InOrder

RINGS = 3
KEYS = 4
CHANGES = 400
CLOCK_ERROR_SECONDS = 0.005


class World:
    """Producers that change keys under a lock, each with a clock and a ring of its own.

    Reading a ring lets others go on: more happens between one ring and the next.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._rings: list[list[Event]] = [[] for _ in range(RINGS)]
        self._clocks = [chance.uniform(0, CLOCK_ERROR_SECONDS) for _ in range(RINGS)]
        self._there: dict[str, int] = {}
        self._version = 0
        self.happened: list[Event] = []

    def change(self) -> None:
        """One more change, by whomever."""
        ring, name = self._chance.randrange(RINGS), f"key {self._chance.randrange(KEYS)}"
        key = self._chance.choice((name, name.encode()))  # the same one
        at = round(len(self.happened) / 1000 + self._clocks[ring], 3)
        if name in self._there and self._chance.random() < 0.4:
            kind = self._chance.choice(("touch", "delete", "expire", "evict"))
            event = Event(kind, key, self._there[name], at)
            if kind != "touch":
                del self._there[name]
        else:
            self._version += 1
            self._there[name] = self._version
            event = Event("set", key, self._version, at)
        self._rings[ring].append(event)
        self.happened.append(event)

    def read(self) -> Iterator[list[Event]]:
        """What is new in each ring, one after the other."""
        for ring, events in enumerate(self._rings):
            self._rings[ring] = []
            yield events
            while len(self.happened) < CHANGES and self._chance.random() < 0.7:
                self.change()


@pytest.mark.parametrize("turn", range(20))
def test_events_of_a_key_come_as_they_happened(turn: int, seed: int) -> None:
    print(f"turn {turn}")
    world = World(random.Random(seed))
    order = InOrder(world.read)
    told: list[Event] = []
    while len(told) < CHANGES:
        if len(world.happened) < CHANGES:
            world.change()
        told += order.next()
    assert sorted(told, key=repr) == sorted(world.happened, key=repr)
    for name in (f"key {number}" for number in range(KEYS)):
        assert changes_of(name, told) == changes_of(name, world.happened)


def changes_of(name: str, events: list[Event]) -> list[tuple[str, int | None]]:
    """What became of a key, in order. Touches of one version are alike, whoever made them."""
    return [(event.kind, event.version) for event in events if event.key in (name, name.encode())]


def test_rings_are_merged_by_time_and_keep_their_order() -> None:
    rings = [
        [Event("set", "a", 1, 1.0), Event("set", "b", 2, 3.0)],
        [Event("flush", None, None, 2.0), Event("set", "c", 3, 1.5)],  # the clock was set back
    ]
    order = InOrder(lambda: [rings.pop() for _ in range(len(rings))])
    assert [event.key for event in order.next()] == ["a", None, "c", "b"]
    assert order.next() == []
