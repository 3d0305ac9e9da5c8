"""What requests over a store share, wait for and leave behind; what is kept, and for how long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from support.memory_store import MemoryStore, SharedMemory
from support.stored_rig import Rig
from support.ways import own_table

from kvserve.errors import InvalidValue, StoreUnavailable
from kvserve.names import Names
from kvserve.protocol import commands
from kvserve.store.base import Key, Record
from kvserve.table.geometry import plan
from kvserve.table.table import Table

ROOMY = plan(memory=1024 * 1024, item_size=64, max_value=1024, shards=2, workers=1)


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
        reading = {commands.TTL.code, commands.LIMIT.code}  # limits are not stored
        reading |= commands.READS_OF_VALUES
        single = {command.code for command in commands.BATCHABLE}
        assert set(executor._changes) == single - reading

    with own_table(names, ROOMY, 1) as table:
        asyncio.run(main(table))
