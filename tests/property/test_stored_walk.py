"""Requests over a store against a dictionary: any order, many at once, a slow store, little memory.

The table is far smaller than what is stored, so that most keys are evicted and loaded again. Each
key's requests have an order, that of their coming; what the dictionary says of it must be said by
every answer, and in the end the store must hold exactly the dictionary.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.memory_store import MemoryStore, SharedMemory
from support.stored_rig import Rig
from support.ways import own_table

from kvserve.names import Names
from kvserve.protocol import codec, commands
from kvserve.protocol.commands import Command
from kvserve.store.base import Key
from kvserve.table.geometry import plan
from kvserve.table.table import Table

CRAMPED = plan(memory=24 * 1024, item_size=64, max_value=1024, shards=2, workers=1)
ROOMY = plan(memory=1024 * 1024, item_size=64, max_value=1024, shards=2, workers=1)
KEYS = [f"key-{n}" for n in range(12)]
KINDS = ("get", "get", "get", "set", "add", "replace", "delete", "incr", "touch", "ttl")
FILLERS = 400  # more than the cramped table holds


Expectation = Callable[[Any], bool]


class Truth:
    """What each key holds, as (codec, payload), and what each operation must answer."""

    def __init__(self) -> None:
        self.held: dict[Key, tuple[int, bytes]] = {}

    def operation(self, dice: random.Random) -> tuple[Command, tuple[Any, ...], Expectation]:
        """A random operation, done here at once; its answer must satisfy the expectation."""
        key = dice.choice(KEYS)
        there = self.held.get(key)
        kind = dice.choice(KINDS)
        value = codec.encode(dice.choice((b"x" * dice.randrange(300), "text", dice.randrange(99))))
        if kind == "get":
            return commands.GET, (key,), lambda got: _payload(got) == there
        if kind == "set":
            self.held[key] = value
            return commands.SET, (key, *value, 0), lambda version: version > 0
        if kind == "add":
            self.held.setdefault(key, value)
            return commands.ADD, (key, *value, 0), lambda done: bool(done) == (there is None)
        if kind == "replace":
            if there is not None:
                self.held[key] = value
            return commands.REPLACE, (key, *value, 0), lambda done: bool(done) == bool(there)
        if kind == "delete":
            self.held.pop(key, None)
            return commands.DELETE, (key,), lambda done: done == (there is not None)
        if kind == "ttl":
            return commands.TTL, (key,), lambda ttl_ms: ttl_ms == (None if there is None else 0)
        if kind == "touch":
            return commands.TOUCH, (key, 0), lambda done: done == (there is not None)
        return self._incr(key, there)

    def _incr(
        self, key: Key, there: tuple[int, bytes] | None
    ) -> tuple[Command, tuple[Any, ...], Expectation]:
        if there is not None and there[0] != codec.COUNTER:
            return commands.GET, (key,), lambda got: _payload(got) == there
        total = 5 if there is None else codec.decode(*there) + 2
        self.held[key] = codec.encode(total)
        return commands.INCR, (key, 2, 3, 0), lambda answer: answer == total


def _payload(got: Any) -> tuple[int, bytes] | None:
    return None if got is None else (got[0], got[1])


async def check_versions(rig: Rig, truth: Truth, dice: random.Random) -> None:
    """What depends on a version is done with the one just read, and with no other.

    A record of a shared store has another version when the table may not be served any more.
    """
    for key in dice.sample(KEYS, 4):
        got = await rig.ask(commands.GET, key)
        assert _payload(got) == truth.held.get(key)
        if got is None:
            assert not await rig.ask(commands.CAS, key, codec.TEXT, b"never", 0, 1)
            assert not await rig.ask(commands.DELETE_VERSION, key, 1)
            continue
        assert not await rig.ask(commands.CAS, key, codec.TEXT, b"never", 0, got[2] + 1)
        assert not await rig.ask(commands.DELETE_VERSION, key, got[2] + 1)
        if dice.random() < 0.7:
            value = codec.encode(f"swapped {dice.random()}")
            done = await rig.ask(commands.CAS, key, *value, 0, got[2])
            if done:
                truth.held[key] = value
                assert not await rig.ask(commands.CAS, key, codec.TEXT, b"late", 0, got[2])
        else:
            done = await rig.ask(commands.DELETE_VERSION, key, got[2])
            if done:
                del truth.held[key]
        assert done or rig.store.is_shared
        assert _payload(await rig.ask(commands.GET, key)) == truth.held.get(key)


def stir(rig: Rig, dice: random.Random) -> None:
    """What the link to a shared store may say at any time, true or not."""
    match dice.randrange(4):
        case 0:
            rig.coherence.on_invalid(None)  # nothing may be served until it is fresh again
        case 1:
            rig.coherence.on_invalid([key.encode() for key in dice.sample(KEYS, 3)])
        case _:
            if rig.store.has_news:
                rig.store.has_news = False
                rig.coherence.on_invalid([key.encode() for key in KEYS])
            rig.coherence.on_fresh(time.monotonic_ns() // 1_000_000 + dice.choice((5, 60_000)))


@pytest.mark.parametrize("behind_seconds", [0.0, 0.02], ids=["through", "behind"])
@pytest.mark.parametrize("geometry", [CRAMPED, ROOMY], ids=["cramped", "roomy"])
@pytest.mark.parametrize("kind", [MemoryStore, SharedMemory], ids=["own", "shared"])
def test_every_answer_is_the_dictionarys(
    names: Names, kind: type[MemoryStore], geometry: Any, behind_seconds: float, seed: int
) -> None:
    dice = random.Random(seed)

    async def main(table: Table) -> None:
        store = kind()
        rig = Rig(table, store, behind_seconds)
        truth = Truth()
        for round_ in range(60):
            if store.is_shared:
                stir(rig, dice)
            store.pause_seconds = dice.choice((0.0, 0.0, 0.003))
            rig.negative_cache.seconds = dice.choice((0.0, 60.0))
            await asyncio.gather(
                *[
                    rig.ask(commands.SET, f"filler-{dice.randrange(FILLERS)}", 0, b"f" * 60, 0)
                    for _ in range(20)
                ]
            )
            asked = [truth.operation(dice) for _ in range(30)]
            replies = [rig.submit(command, *arguments) for command, arguments, _ in asked]
            for (command, arguments, expects), reply in zip(asked, replies, strict=True):
                answer = (await reply).result()
                assert expects(answer), f"round {round_}: {command.name} {arguments}: {answer}"
            await check_versions(rig, truth, dice)
        if rig.behind is not None:
            await rig.behind.flush()
        assert rig.executor.is_idle
        kept = {key: store.records.get(key.encode()) for key in KEYS}
        assert {
            key: (record.codec, record.payload) for key, record in kept.items() if record
        } == truth.held

    with own_table(names, geometry, seed) as table:
        asyncio.run(main(table))
