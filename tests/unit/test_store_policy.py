"""What stands between a worker and its store: turns, limits, negative_cache, write-behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import pytest
from support.memory_store import MemoryStore

from kvserve import limits
from kvserve.errors import OutcomeUnknown, StoreUnavailable
from kvserve.store import negative_cache, write_behind
from kvserve.store.base import Key, Record
from kvserve.store.batcher import ITEMS_MAX
from kvserve.store.breaker import FAILURES_MAX
from kvserve.store.guard import GuardedStore
from kvserve.store.negative_cache import NegativeCache
from kvserve.store.write_behind import WriteBehind


def record(key: str, payload: bytes = b"v") -> Record:
    return Record(key, 0, payload, 0)


def run(test: Callable[[MemoryStore, GuardedStore], Awaitable[None]], pause: float = 0.0) -> None:
    async def main() -> None:
        store = MemoryStore(pause)
        guarded = GuardedStore(store, asyncio.get_running_loop(), 0.2, value_bytes_max=1)
        await guarded.open()
        await test(store, guarded)

    asyncio.run(main())


def test_what_one_turn_asks_is_asked_at_once() -> None:
    async def test(store: MemoryStore, guarded: GuardedStore) -> None:
        await asyncio.gather(*[guarded.save(record(str(n))) for n in range(100)])
        found = await asyncio.gather(*[guarded.load(str(n)) for n in range(101)])
        assert found == [record(str(n)) for n in range(100)] + [None]
        assert await asyncio.gather(guarded.delete("1"), guarded.delete("x")) == [True, False]
        assert store.calls == [("save", 100), ("load", 101), ("delete", 2)]
        assert (guarded.stats()["loads"], guarded.stats()["load_hits"]) == (101, 100)

    run(test)


def test_a_turn_has_a_bound() -> None:
    async def test(store: MemoryStore, guarded: GuardedStore) -> None:
        await asyncio.gather(*[guarded.load(str(n)) for n in range(ITEMS_MAX + 1)])
        assert store.calls == [("load", ITEMS_MAX), ("load", 1)]

    run(test)


def test_a_failure_is_everybodys_of_that_turn() -> None:
    async def test(store: MemoryStore, guarded: GuardedStore) -> None:
        store.is_broken = True
        outcomes = await asyncio.gather(
            *[guarded.load(str(n)) for n in range(3)], return_exceptions=True
        )
        assert [type(each) for each in outcomes] == [StoreUnavailable] * 3
        assert guarded.stats()["failures"] == 3

    run(test)


def test_a_store_that_hangs_is_given_up_and_a_write_is_then_of_unknown_outcome() -> None:
    async def test(_: MemoryStore, guarded: GuardedStore) -> None:
        with pytest.raises(StoreUnavailable):
            await guarded.load("a")
        with pytest.raises(OutcomeUnknown):
            await guarded.save(record("a"))
        with pytest.raises(OutcomeUnknown):
            await guarded.delete("a")

    run(test, pause=30.0)


def test_calls_wait_for_a_store_that_is_being_opened() -> None:
    async def main() -> None:
        guarded = GuardedStore(MemoryStore(), asyncio.get_running_loop(), 20.0)
        waiting = guarded.load("a")
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await guarded.open()
        assert await waiting is None
        never = GuardedStore(MemoryStore(), asyncio.get_running_loop(), 0.05)
        with pytest.raises(StoreUnavailable):  # of known outcome: nothing was sent
            await never.save(record("a"))

    asyncio.run(main())


def test_calls_do_not_wait_for_a_store_that_cannot_be_opened() -> None:
    class Closed(MemoryStore):
        is_there = False

        async def open(self) -> None:
            if not self.is_there:
                raise StoreUnavailable("too many open files")

    async def main() -> None:
        store = Closed()
        guarded = GuardedStore(store, asyncio.get_running_loop(), 1e6)
        with pytest.raises(StoreUnavailable):
            await guarded.open()
        for call in (guarded.load("a"), guarded.save(record("a")), guarded.delete("a")):
            with pytest.raises(StoreUnavailable, match="cannot be opened: too many open files"):
                await call
        with pytest.raises(StoreUnavailable):
            guarded.check("a")
        store.is_there = True
        await guarded.open()
        await guarded.save(record("a"))

    asyncio.run(main())


def test_what_is_under_way_has_a_bound_and_the_rest_follows() -> None:
    async def main() -> None:
        store = MemoryStore(pause_seconds=0.01)
        guarded = GuardedStore(store, asyncio.get_running_loop(), 20.0, 100, call_bytes_max=300)
        await guarded.open()
        await asyncio.gather(*(guarded.load(str(n)) for n in range(200)))
        calls = [items for _, items in store.calls]
        assert calls[0] == 2  # of the largest value; until small ones have been seen
        assert 16 < max(calls) <= 300 // (100 // limits.LOAD_SHARE)
        assert sum(calls) == 200
        assert guarded.call_bytes == 0

    asyncio.run(main())


def test_what_waits_while_calls_fail_is_answered_too() -> None:
    async def main() -> None:
        store = MemoryStore(pause_seconds=0.02)
        guarded = GuardedStore(store, asyncio.get_running_loop(), 0.05, 100, call_bytes_max=1)
        await guarded.open()
        store.is_broken = True
        saves = [guarded.save(record(str(n))) for n in range(100)]
        outcomes = await asyncio.gather(*saves, return_exceptions=True)
        assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
        assert store.records == {}
        assert guarded.call_bytes == 0

    asyncio.run(main())


@pytest.mark.parametrize("key_bytes", [10, 1000])
def test_absences_and_waiting_writes_are_bounded_in_bytes(key_bytes: int) -> None:
    missing = NegativeCache(1.0, lambda: 0.0, bytes_max=10_000)
    names = [b"%d" % n * key_bytes for n in range(300)]
    for name in names:
        missing.note(name[:key_bytes])
    assert 0 < missing.held_bytes <= 10_000
    missing.clear()
    assert missing.held_bytes == 0

    async def main() -> None:
        store = MemoryStore()
        guarded = GuardedStore(store, asyncio.get_running_loop(), 5.0)
        await guarded.open()
        writes = WriteBehind(guarded, asyncio.get_running_loop(), 60.0, bytes_max=10_000)
        store.is_broken = True

        async def fill() -> None:
            for n in range(100):
                await writes.put(b"%d" % n, str(n), record(str(n)))

        with pytest.raises(StoreUnavailable):
            await fill()
        assert 10_000 <= writes.held_bytes < 11_000  # also after an attempt that failed
        store.is_broken = False
        await writes.flush()
        assert (len(writes), writes.held_bytes) == (0, 0)

    asyncio.run(main())


def test_a_store_that_fails_again_and_again_is_left_alone() -> None:
    async def test(store: MemoryStore, guarded: GuardedStore) -> None:
        store.is_broken = True
        for _ in range(FAILURES_MAX):
            with pytest.raises(StoreUnavailable):
                await guarded.load("a")
        store.is_broken = False
        with pytest.raises(StoreUnavailable):
            await guarded.load("a")
        with pytest.raises(StoreUnavailable):
            guarded.check("a")
        assert len(store.calls) == FAILURES_MAX
        assert (guarded.stats()["breaker"], guarded.stats()["refused"]) == ("open", 2)

    run(test)


def test_absences_are_believed_for_a_while_and_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(negative_cache, "KEYS_MAX", 2)
    missing = NegativeCache(1.0, lambda: now[0])
    for name in (b"a", b"b", b"c"):
        missing.note(name)
    assert [name in missing for name in (b"a", b"b", b"c")] == [False, True, True]
    missing.forget(b"b")
    assert b"b" not in missing
    now[0] = 1.0
    assert b"c" not in missing
    missing.seconds = 0.0
    missing.note(b"d")
    assert b"d" not in missing


def test_writes_behind_go_together_and_each_key_once() -> None:
    async def test(store: MemoryStore, guarded: GuardedStore) -> None:
        writes = WriteBehind(guarded, asyncio.get_running_loop(), 0.5)
        for n in range(10):
            await writes.put(b"a", "a", record("a", b"%d" % n))
        await writes.put(b"b", "b", None)
        assert writes.find(b"a") == (True, record("a", b"9"))
        assert writes.find(b"b") == (True, None)
        assert writes.find(b"c") == (False, None)
        assert store.calls == []
        while writes:
            await asyncio.sleep(0.01)
        assert store.calls == [("save", 1), ("delete", 1)]
        assert store.records == {b"a": record("a", b"9")}

    run(test)


def test_writes_behind_survive_a_store_that_fails_and_newer_ones_win() -> None:
    async def test(store: MemoryStore, guarded: GuardedStore) -> None:
        writes = WriteBehind(guarded, asyncio.get_running_loop(), 10.0)
        store.is_broken = True
        await writes.put(b"a", "a", record("a", b"old"))
        flushing = asyncio.ensure_future(writes.flush())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert writes.find(b"a") == (True, record("a", b"old"))  # also on its way
        await writes.put(b"a", "a", record("a", b"new"))
        await flushing
        assert writes.find(b"a") == (True, record("a", b"new"))
        store.is_broken = False
        await writes.flush()
        assert store.records == {b"a": record("a", b"new")}

    run(test)


def test_writes_behind_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(store: MemoryStore, guarded: GuardedStore) -> None:
        writes = WriteBehind(guarded, asyncio.get_running_loop(), 10.0)

        async def put_many() -> None:
            for n in range(25):
                await writes.put(b"%d" % n, str(n), record(str(n)))

        await put_many()
        assert len(writes) <= 10
        store.is_broken = True
        with pytest.raises(StoreUnavailable):
            await put_many()
        assert len(writes) <= 10

    monkeypatch.setattr(write_behind, "KEYS_MAX", 10)
    run(test)


def test_what_waits_for_the_room_of_calls_at_once_follows_them() -> None:
    """A call that goes by the shortest way takes room, too, and wakes what waits for it."""

    class AtOnce(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.ends: list[Callable[[], None]] = []

        def load_at_once(self, key: Key, done: Callable[[Any], None]) -> bool:
            del key
            self.ends.append(lambda: done(None))
            return True

        def save_at_once(self, record: Record, done: Callable[[Any], None]) -> bool:
            del record
            self.ends.append(lambda: done(None))
            return True

    async def main() -> None:
        store = AtOnce()
        guarded = GuardedStore(store, asyncio.get_running_loop(), 20.0, 100, call_bytes_max=100)
        await guarded.open()
        assert guarded.load_at_once("a", lambda _: None)
        assert guarded.save_at_once(record("a"), lambda _: None)
        assert not guarded.load_at_once("b", lambda _: None)
        assert not guarded.save_at_once(record("b"), lambda _: None)
        waiting = [guarded.load("b"), guarded.save(record("b"))]
        for _ in range(10):
            await asyncio.sleep(0)
        assert not any(each.done() for each in waiting)
        for end in store.ends:
            end()
        await asyncio.wait_for(asyncio.gather(*waiting), 20)
        assert guarded.call_bytes == 0

    asyncio.run(main())


def test_flush_ends_though_writes_go_on() -> None:
    async def main() -> None:
        store = MemoryStore(pause_seconds=0.005)
        loop = asyncio.get_running_loop()
        guarded = GuardedStore(store, loop, 20.0)
        await guarded.open()
        behind = WriteBehind(guarded, loop, 60.0)
        await behind.put(b"first", "first", record("first"))

        async def write_on() -> None:
            for number in itertools.count():
                await behind.put(b"%d" % number, str(number), record(str(number)))
                await asyncio.sleep(0.001)

        writing = loop.create_task(write_on())
        await asyncio.wait_for(behind.flush(b"first"), 20)
        assert store.records[b"first"]
        writing.cancel()
        await behind.flush()
        assert len(behind) == 0

    asyncio.run(main())


def test_a_probe_that_fails_in_an_unknown_way_is_followed_by_others() -> None:
    class Odd(MemoryStore):
        can_probe = True
        probes = 0

        async def probe(self, part: Hashable) -> None:
            del part
            self.probes += 1
            if self.probes < 3:
                raise TypeError("no answer that a probe knows")

    async def main() -> None:
        store = Odd()
        guarded = GuardedStore(store, asyncio.get_running_loop(), 20.0)
        await guarded.open()
        store.is_broken = True
        for _ in range(50):
            with contextlib.suppress(StoreUnavailable):
                await guarded.load("a")
        assert guarded.stats()["breaker"] == "open"
        store.is_broken = False
        while guarded.stats()["breaker"] != "closed":
            await asyncio.sleep(0.01)
        await guarded.load("a")
        await guarded.close()

    asyncio.run(main())
