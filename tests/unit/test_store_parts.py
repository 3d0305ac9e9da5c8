"""A store in several places: each answers for itself, is left alone, and is found to work again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any

import pytest
from support.memory_store import MemoryStore

from kvserve.errors import KvserveError, OutcomeUnknown, StoreUnavailable
from kvserve.store.base import Key, Record, StoreRefusal
from kvserve.store.breaker import FAILURES_MAX
from kvserve.store.guard import GuardedStore
from kvserve.store.write_behind import WriteBehind

Work = Callable[["TwoPlaces", GuardedStore], Awaitable[None]]


class TwoPlaces(MemoryStore):
    """Keys are in the place that their first letter names; one may hang, fail or refuse."""

    can_probe = True

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Callable[[], KvserveError | None]] = {}
        self.hanging: set[str] = set()
        self.asked: list[tuple[Hashable, ...]] = []
        self.works = False
        self.probes = 0

    def part(self, key: Key) -> Hashable:
        return (key if isinstance(key, str) else key.decode())[0]

    async def probe(self, part: Hashable) -> None:
        assert part == "a"
        self.probes += 1
        if not self.works:
            raise StoreUnavailable("still dead")

    def parts(self) -> dict[Hashable, dict[str, Any]]:
        return {"a": {"connections": 1}, "b": {"connections": 2}}

    async def _outcomes(self, keys: Sequence[Key]) -> list[KvserveError | None]:
        places = sorted({str(self.part(key)) for key in keys})
        self.asked.append(tuple(places))
        while self.hanging.intersection(places):
            await asyncio.sleep(0.001)
        return [self.answers.get(str(self.part(key)), lambda: None)() for key in keys]

    async def load_each(self, keys: Sequence[Key]) -> Sequence[Record | KvserveError | None]:
        found = await self.load_many(keys)
        return [
            error or record for error, record in zip(await self._outcomes(keys), found, strict=True)
        ]

    async def save_each(self, records: Sequence[Record]) -> Sequence[KvserveError | None]:
        return await self._outcomes([record.key for record in records])


def record(key: str) -> Record:
    return Record(key, 0, b"v", 0)


def run(test: Work) -> None:
    async def main() -> None:
        store = TwoPlaces()
        guarded = GuardedStore(store, asyncio.get_running_loop(), 20.0)
        await guarded.open()
        await test(store, guarded)
        await guarded.close()

    asyncio.run(main())


async def fail(store: TwoPlaces, guarded: GuardedStore) -> None:
    """Place a fails until it is left alone."""
    store.answers["a"] = lambda: StoreUnavailable("dead")
    for _ in range(FAILURES_MAX):
        with pytest.raises(StoreUnavailable, match="dead"):
            await guarded.load("a1")


def test_one_place_does_not_wait_for_the_other() -> None:
    async def test(store: TwoPlaces, guarded: GuardedStore) -> None:
        store.hanging.add("a")
        stuck = [guarded.load("a1"), guarded.save(record("a2"))]
        assert await guarded.load("b1") is None
        await guarded.save(record("b2"))
        assert not any(each.done() for each in stuck)
        assert all(len(places) == 1 for places in store.asked)
        store.hanging.clear()
        await asyncio.gather(*stuck)

    run(test)


def test_one_place_fails_for_itself() -> None:
    async def test(store: TwoPlaces, guarded: GuardedStore) -> None:
        store.answers["a"] = lambda: OutcomeUnknown("lost")
        for _ in range(3 * FAILURES_MAX):
            outcomes = await asyncio.gather(
                *(guarded.save(record(key)) for key in ("a1", "b1", "a2", "b2")),
                return_exceptions=True,
            )
            assert [type(each) for each in outcomes[1::2]] == [type(None)] * 2
        with pytest.raises(StoreUnavailable, match="at a failed again and again"):
            await guarded.save(record("a1"))
        with pytest.raises(StoreUnavailable):
            guarded.check("a9")
        guarded.check("b9")
        nodes = guarded.nodes()
        assert (nodes["a"]["breaker"], nodes["b"]["breaker"]) == ("open", "closed")
        assert (nodes["a"]["left_alone"], nodes["b"]["left_alone"]) == (1, 0)
        assert nodes["b"]["connections"] == 2
        assert guarded.stats()["breaker"] == "open"

    run(test)


def test_no_call_is_used_to_find_out_whether_a_place_works_again() -> None:
    async def test(store: TwoPlaces, guarded: GuardedStore) -> None:
        await fail(store, guarded)
        asked = len(store.asked)
        while store.probes < 3:
            with pytest.raises(StoreUnavailable, match="again and again"):
                await guarded.load("a1")
            await asyncio.sleep(0.001)
        assert len(store.asked) == asked
        store.answers.clear()
        store.works = True
        while guarded.nodes()["a"]["breaker"] != "closed":
            await asyncio.sleep(0.001)
        assert await guarded.load("a1") is None
        probes = store.probes
        await asyncio.sleep(0.3)
        assert store.probes == probes

    run(test)


def test_a_place_that_is_gone_is_probed_no_more() -> None:
    async def test(store: TwoPlaces, guarded: GuardedStore) -> None:
        await fail(store, guarded)
        store.parts = lambda: {"b": {}}  # type: ignore[method-assign]
        while "open" in {guarded.stats()["breaker"]}:
            await asyncio.sleep(0.001)

    run(test)


def test_who_refuses_works() -> None:
    """A full server, for example: it says no to writes at once, and still answers loads."""

    async def test(store: TwoPlaces, guarded: GuardedStore) -> None:
        store.answers["a"] = lambda: StoreRefusal("full")
        for _ in range(3 * FAILURES_MAX):
            with pytest.raises(StoreUnavailable, match="full"):
                await guarded.save(record("a1"))
        assert guarded.nodes()["a"]["breaker"] == "closed"
        assert guarded.stats()["failures"] == 3 * FAILURES_MAX

    run(test)


def test_writes_behind_to_a_place_that_works_do_not_wait_for_another() -> None:
    async def test(store: TwoPlaces, guarded: GuardedStore) -> None:
        writes = WriteBehind(guarded, asyncio.get_running_loop(), 60.0)
        store.answers["a"] = lambda: StoreUnavailable("dead")
        for key in ("a1", "b1", "a2", "b2"):
            await writes.put(key.encode(), key, record(key))
        await writes.flush()
        waiting = [key for key in ("a1", "b1", "a2", "b2") if writes.find(key.encode())[0]]
        assert waiting == ["a1", "a2"]
        store.answers.clear()
        await writes.flush()
        assert len(writes) == 0

    run(test)
