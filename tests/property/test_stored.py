"""Requests over a store against a dictionary: any order, many at once, a slow store, little memory.

The table is far smaller than what is stored, so that most keys are evicted and loaded again. Each
key's requests have an order, that of their coming; what the dictionary says of it must be said by
every answer, and in the end the store must hold exactly the dictionary.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from support.memory_store import MemoryStore, SharedMemory
from support.ways import own_table

from kvserve.errors import InvalidValue, StoreUnavailable
from kvserve.execution.budget import Allowance, Budget
from kvserve.execution.executor import Executor
from kvserve.execution.stored.coherence import Coherence
from kvserve.execution.stored.executor import StoredExecutor
from kvserve.names import Names
from kvserve.protocol import codec, commands
from kvserve.protocol.commands import Command
from kvserve.protocol.messages import Reply, Request
from kvserve.store.base import Key, Record
from kvserve.store.guard import GuardedStore
from kvserve.store.negative_cache import NegativeCache
from kvserve.store.write_behind import WriteBehind
from kvserve.table.geometry import plan
from kvserve.table.table import Table

CRAMPED = plan(memory=24 * 1024, item_size=64, max_value=1024, shards=2, workers=1)
ROOMY = plan(memory=1024 * 1024, item_size=64, max_value=1024, shards=2, workers=1)
KEYS = [f"key-{n}" for n in range(12)]
KINDS = ("get", "get", "get", "set", "add", "replace", "delete", "incr", "touch", "ttl")
_NEVER_MS = 2**50  # a deadline
FILLERS = 400  # more than the cramped table holds


class Nobody:
    """Whose requests these are."""

    charged_bytes, is_open = 0, True


class SlowShared(SharedMemory):
    """The answer to the first load is kept back, though it was read at once."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck: list[asyncio.Event] = []

    async def load_many(self, keys: Sequence[Key]) -> list[Record | None]:
        found = await super().load_many(keys)
        if len(self.calls) == 1:
            self.stuck.append(asyncio.Event())
            await self.stuck[-1].wait()
        return found


class Rig:
    """A stored executor over a table of its own and a store in memory."""

    def __init__(self, table: Table, store: MemoryStore, behind_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self.store = store
        guarded = GuardedStore(store, loop, 5.0, value_bytes_max=1024)
        self._opening = loop.create_task(guarded.open())
        shards = range(table.shards)
        negative_cache = NegativeCache(0.0, loop.time)
        self.coherence = Coherence(table, shards, 0, negative_cache, is_shared=store.is_shared)
        self.behind = WriteBehind(guarded, loop, behind_seconds) if behind_seconds else None
        self.negative_cache = negative_cache
        self.executor = StoredExecutor(
            table, 0, Executor(table, shards, dict), guarded, self.behind, negative_cache,
            self.coherence, loop, 1024,
        )  # fmt: skip

    def submit(self, command: Command, *arguments: Any) -> asyncio.Future[Reply]:
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        request = Request(1, 2, command, _NEVER_MS, arguments)
        self.executor.submit(request, reply.set_result, Allowance(Budget(2**30), Nobody(), 0))
        return reply

    async def ask(self, command: Command, *arguments: Any) -> Any:
        return (await self.submit(command, *arguments)).result()


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


def test_a_batch_is_answered_in_its_order_and_waits_for_the_store_together(names: Names) -> None:
    async def main(table: Table) -> None:
        store = MemoryStore()
        rig = Rig(table, store, 0.0)
        sets = [[commands.SET.code, str(n), 0, b"%d" % n, 0] for n in range(100)]
        gets = [[commands.GET.code, str(n)] for n in range(100)]
        answers = await rig.ask(commands.BATCH, [*sets, *gets])
        assert [status for status, _ in answers] == [0] * 200
        assert [answer[1] for _, answer in answers[100:]] == [b"%d" % n for n in range(100)]
        assert store.calls == [("save", 100)]
        for shard in range(table.shards):
            table.flush(shard)
        answers = await rig.ask(commands.BATCH, gets)
        assert [answer[1] for _, answer in answers] == [b"%d" % n for n in range(100)]
        assert store.calls[1:] == [("load", 100)]

    with own_table(names, ROOMY, 1) as table:
        asyncio.run(main(table))


def test_many_keys_wait_for_the_store_together_and_are_answered_as_one(names: Names) -> None:
    keys = [str(n) for n in range(100)]
    payloads = [b"%d" % n for n in range(100)]

    async def main(table: Table) -> None:
        store = MemoryStore()
        rig = Rig(table, store, 0.0)
        assert await rig.ask(commands.SET_MANY, keys, bytes(100), payloads, 0) == 100
        assert store.calls == [("save", 100)]
        for shard in range(table.shards):
            table.flush(shard)
        assert await rig.ask(commands.GET_MANY, [*keys, "x"]) == (bytes(101), [*payloads, None])
        assert store.calls[1:] == [("load", 101)]
        assert await rig.ask(commands.DELETE_MANY, [*keys, "x"]) == 100
        assert (await rig.ask(commands.GET_MANY, keys))[1] == [None] * 100
        refused = await rig.submit(commands.SET_MANY, ["a", "b"], b"\x09\x00", [b"", b""], 0)
        assert refused.status == InvalidValue.wire_code
        assert (await rig.ask(commands.GET_MANY, ["a", "b"]))[1] == [None, b""]

    with own_table(names, ROOMY, 1) as table:
        asyncio.run(main(table))


def test_one_load_for_all_who_miss_a_key_and_others_do_not_wait(names: Names) -> None:
    async def main(table: Table) -> None:
        store = MemoryStore(0.05)
        rig = Rig(table, store, 0.0)
        store.records[b"there"] = Record("there", 0, b"v", 0)
        missed = [rig.submit(commands.GET, "there") for _ in range(50)]
        table.set("hit", 0, b"h", 0)
        assert (await rig.ask(commands.GET, "hit"))[1] == b"h"
        assert not any(reply.done() for reply in missed)
        assert {(await reply).result()[1] for reply in missed} == {b"v"}
        assert store.calls == [("load", 1)]

    with own_table(names, ROOMY, 1) as table:
        asyncio.run(main(table))


def test_a_write_that_fails_is_done_nowhere_and_hits_go_on(names: Names) -> None:
    async def main(table: Table) -> None:
        store = MemoryStore()
        rig = Rig(table, store, 0.0)
        await asyncio.gather(rig.ask(commands.SET, "a", 0, b"1", 0))
        await rig.ask(commands.SET, "b", 0, b"1", 0)
        store.is_broken = True
        for _ in range(20):  # until the breaker opens, and beyond
            with pytest.raises(StoreUnavailable):
                await rig.ask(commands.SET, "a", 0, b"2", 0)
        for change in ((commands.SET, "b", 0, b"2", 0), (commands.DELETE, "b")):
            with pytest.raises(StoreUnavailable):
                await rig.ask(*change)
            assert (await rig.ask(commands.GET, "b"))[1] == b"1"
        with pytest.raises(StoreUnavailable):
            await rig.ask(commands.GET, "a")  # not known any more, and never the new value
        assert store.records[b"a"].payload == b"1"

    with own_table(names, ROOMY, 1) as table:
        asyncio.run(main(table))


def test_a_key_that_is_being_written_is_not_in_the_table(names: Names) -> None:
    """Else a worker that is killed just then leaves a value there which the store has not."""

    async def main(table: Table) -> None:
        store = MemoryStore()
        rig = Rig(table, store, 0.0)
        await rig.ask(commands.SET, "a", 0, b"old", 0)
        store.pause_seconds = 0.05
        writing = rig.submit(commands.SET, "a", 0, b"new", 0)
        reading = rig.submit(commands.GET, "a")
        await asyncio.sleep(0.02)
        assert table.read("a") is None
        assert not reading.done()
        await writing
        assert (await reading).result()[1] == b"new"
        assert table.read("a")[1] == b"new"

    with own_table(names, ROOMY, 1) as table:
        asyncio.run(main(table))


def test_what_was_named_while_it_was_loaded_is_answered_and_not_kept(names: Names) -> None:
    """The load may have been answered before the change, of which the message came first."""

    async def main(table: Table) -> None:
        store = SharedMemory(0.05)
        store.records = {key: Record(key.decode(), 0, b"v", 0) for key in (b"a", b"b")}
        rig = Rig(table, store, 0.0)
        rig.coherence.on_fresh(time.monotonic_ns() // 1_000_000 + 60_000)
        loading = [rig.submit(commands.GET, key) for key in ("a", "b")]
        await asyncio.sleep(0.02)
        rig.coherence.on_invalid([b"a"])
        assert [(await reply).result()[1] for reply in loading] == [b"v", b"v"]
        assert table.read("a") is None
        assert table.read("b") is not None
        # And not for ever: the next load is kept.
        await rig.ask(commands.GET, "a")
        assert table.read("a") is not None

    with own_table(names, ROOMY, 1) as table:
        asyncio.run(main(table))


def test_who_asks_after_a_change_does_not_share_the_load_from_before_it(names: Names) -> None:
    """Another's answer may keep a load waiting, for which the old value has been read already."""

    async def main(table: Table) -> None:
        store = SlowShared()
        store.records[b"a"] = Record("a", 0, b"old", 0)
        rig = Rig(table, store, 0.0)
        rig.coherence.on_fresh(time.monotonic_ns() // 1_000_000 + 60_000)
        first = rig.submit(commands.GET, "a")
        while not store.stuck:
            await asyncio.sleep(0.001)
        shared = rig.submit(commands.GET, "a")  # nothing has changed yet: one load will do
        store.records[b"a"] = Record("a", 0, b"new", 0)
        rig.coherence.on_invalid([b"a"])
        assert (await rig.ask(commands.GET, "a"))[1] == b"new"
        assert table.read("a")[1] == b"new"
        assert not first.done()
        assert not shared.done()
        store.stuck.pop().set()
        assert [(await each).result()[1] for each in (first, shared)] == [b"old", b"old"]
        assert table.read("a")[1] == b"new"
        assert len(store.calls) == 2

    with own_table(names, ROOMY, 1) as table:
        asyncio.run(main(table))


def test_a_load_is_not_shared_for_longer_than_half_the_bound(names: Names) -> None:
    """Nobody may have been able to tell of a change."""

    async def main(table: Table) -> None:
        store = SlowShared()
        store.records[b"a"] = Record("a", 0, b"old", 0)
        rig = Rig(table, store, 0.0)
        rig.coherence.share_seconds = 0.02
        first = rig.submit(commands.GET, "a")
        while not store.stuck:
            await asyncio.sleep(0.001)
        store.records[b"a"] = Record("a", 0, b"new", 0)
        await asyncio.sleep(0.03)
        assert (await rig.ask(commands.GET, "a"))[1] == b"new"
        store.stuck.pop().set()
        assert (await first).result()[1] == b"old"

    with own_table(names, ROOMY, 1) as table:
        asyncio.run(main(table))


def test_absences_are_believed_for_no_longer_than_values(names: Names) -> None:
    """A worker that was stopped was told of nothing: neither of values nor of negative_cache."""

    async def main(table: Table) -> None:
        store = SharedMemory()
        rig = Rig(table, store, 0.0)
        rig.negative_cache.seconds = 60.0
        rig.coherence.on_fresh(time.monotonic_ns() // 1_000_000 + 30)
        assert await rig.ask(commands.GET, "a") is None
        assert b"a" in rig.negative_cache
        store.records[b"a"] = Record("a", 0, b"v", 0)  # elsewhere, and untold
        while rig.coherence.may_serve:
            await asyncio.sleep(0.001)
        assert (await rig.ask(commands.GET, "a"))[1] == b"v"
        assert await rig.ask(commands.TTL, "a") == 0

    with own_table(names, ROOMY, 1) as table:
        asyncio.run(main(table))


def test_without_a_lease_nothing_is_kept_and_nothing_served(names: Names) -> None:
    async def main(table: Table) -> None:
        store = SharedMemory()
        store.records[b"a"] = Record("a", 0, b"v", 0)
        rig = Rig(table, store, 0.0)
        table.set("a", 0, b"stale", 0)
        assert (await rig.ask(commands.GET, "a"))[1] == b"v"
        rig.coherence.on_fresh(time.monotonic_ns() // 1_000_000 + 60_000)
        rig.coherence.on_invalid(None)
        assert table.read("a") is None
        assert (await rig.ask(commands.GET, "a"))[1] == b"v"
        assert table.read("a") is None

    with own_table(names, ROOMY, 1) as table:
        asyncio.run(main(table))


def test_every_command_that_changes_a_key_goes_by_the_store(names: Names) -> None:
    """One that was forgotten would change the table alone."""

    async def main(table: Table) -> None:
        executor = Rig(table, MemoryStore(), 0.0).executor
        reading = {commands.GET.code, commands.TTL.code, commands.LIMIT.code}  # which is not stored
        single = {command.code for command in commands.BATCHABLE}
        assert set(executor._changes) == single - reading

    with own_table(names, ROOMY, 1) as table:
        asyncio.run(main(table))
