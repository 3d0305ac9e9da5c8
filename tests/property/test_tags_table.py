"""Values with tags in a table that is too small for them: no change of it brings one back.

A model knows which values may still be hits. Evictions may take a value, or the record of one of
its tags; nothing may return a value that has lost a tag.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from support import ways

from kvserve.names import Names
from kvserve.protocol import codec
from kvserve.table._core import Reader
from kvserve.table.geometry import plan
from kvserve.table.table import Table

KEYS = 1000
TAGS = 300
STEPS = 16_000


class Walk:
    """A table, and what the model knows of it: each key's value and its tags' generations."""

    def __init__(self, table: Table, reader: Reader, seed: int) -> None:
        self.table, self.reader = table, reader
        self.chance = random.Random(seed)
        self.held: dict[str, tuple[Any, dict[str, int]]] = {}
        self.generations: dict[str, int] = {}
        self.hits = self.lost = 0

    def mark(self, tags: list[str]) -> bytes:
        """The tags' generations now, begun where there is none."""
        for tag in tags:
            found = self.reader.get(tag)
            if found is None:
                found = self.chance.randrange(1, 2**62)
                self.table.set(tag, *codec.encode(found), 0)
            self.generations[tag] = found
        return self.reader._tags(tags, [self.generations[tag] for tag in tags])

    def is_valid(self, key: str) -> bool:
        """Whether a key's value may be a hit."""
        _, tags = self.held.get(key, (None, {"": 0}))
        return all(self.generations.get(tag) == number for tag, number in tags.items())

    def store(self, key: str) -> None:
        """Stores a value of any kind with some tags, by any condition."""
        chance = self.chance
        tags = [f"tag {n}" for n in chance.sample(range(TAGS), chance.randrange(4))]
        value = chance.choice([chance.randbytes(chance.randrange(200)), chance.randrange(9**9)])
        number, payload = codec.encode(value)
        marks = self.mark(tags) if tags else b""
        arguments = (key, number | (codec.TAGGED if tags else 0), marks + payload, 0)
        before = self.reader.get(key)
        change = chance.choice([self.table.set, self.table.set, self.table.add, self.table.replace])
        stored = change(*arguments)
        if change == self.table.add:
            assert bool(stored) == (before is None)
        if stored:
            self.held[key] = (value, {tag: self.generations[tag] for tag in tags})

    def look(self, key: str) -> None:
        """Compares what there is of a key with the model, by all reads."""
        value = self.reader.get(key)
        found = self.table.read(key)
        assert self.reader.get_many([key]) == ({} if value is None else {key: value})
        assert (self.table.ttl_ms(key) is None) == (found is None) == (value is None)
        if value is None:
            self.lost += self.is_valid(key)
            return
        self.hits += 1
        assert self.is_valid(key)
        assert value == self.held[key][0] == codec.decode(found[0], found[1])
        assert (len(found) == 4) == bool(self.held[key][1])

    def step(self) -> None:
        """One change of the table, and a look."""
        key, tag = f"key {self.chance.randrange(KEYS)}", f"tag {self.chance.randrange(TAGS)}"
        match self.chance.randrange(40):
            case 0:
                self.table.delete(tag)
                self.generations.pop(tag, None)
            case 1:
                if self.table.incr(tag, 1, None, 0) is not None:
                    self.generations.pop(tag, None)
            case 2:
                self.table.touch(key, 10**6)
            case 3:
                self.table.delete(key)
                self.held.pop(key, None)
            case 4 if self.chance.random() < 0.005:
                for shard in range(self.table.geometry()["shards"]):
                    self.table.flush(shard)
                self.held.clear()
            case 5:
                shard = self.chance.randrange(self.table.geometry()["shards"])
                self.table.sweep(shard, 0, 1000)
            case 6 | 7:
                value = self.reader.get(key)
                if type(value) is int:
                    assert self.table.incr(key, 5, None, 0) == value + 5
                    self.held[key] = (value + 5, self.held[key][1])
            case _:
                self.store(key)
        self.look(f"key {self.chance.randrange(KEYS)}")


@pytest.mark.parametrize("memory_kib", [64, 4096])
@pytest.mark.parametrize("seed", range(2))
def test_no_value_outlives_its_tags(names: Names, memory_kib: int, seed: int) -> None:
    geometry = plan(memory=memory_kib * 1024, item_size=128, max_value=1024, shards=2, workers=1)
    with ways.own_table(names, geometry, seed) as table, ways.reading(table) as reader:
        walk = Walk(table, reader, seed)
        for number in range(STEPS):
            walk.step()
            if number % 1000 == 0:
                for shard in range(geometry.shards):
                    assert table.verify(shard) == []
        evictions = sum(table.shard_stats(n)["evictions"] for n in range(geometry.shards))
        assert walk.hits > STEPS / 50
        assert (evictions > 0) == (memory_kib == 64)
        if not evictions:
            assert walk.lost == 0
