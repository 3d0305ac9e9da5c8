"""A near cache over a real cluster: nodes die and come back, replicas take over, slots move."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial

import pytest
import uvloop
from support.stores import record
from support.valkeys import Cluster, Heard, following, serve_cluster, wait_until

from kvserve.errors import OutcomeUnknown, StoreUnavailable
from kvserve.protocol import codec
from kvserve.store.base import Record
from kvserve.store.valkey.store import ValkeyStore

STALENESS_SECONDS = 0.4
TIMEOUT_SECONDS = 1.0
KEYS = [f"key {number}" for number in range(60)]  # some for every node
Work = Callable[[ValkeyStore, Heard], Awaitable[None]]


@pytest.fixture(scope="module")
def clusters() -> Iterator[Iterator[Cluster]]:
    """Clusters with a spare node; they become ready side by side."""
    with ExitStack() as stack:
        yield iter([stack.enter_context(serve_cluster(spares=1)) for _ in range(6)])


@pytest.fixture(scope="module")
def shared_cluster(clusters: Iterator[Cluster]) -> Cluster:
    """A cluster that every test leaves whole."""
    found = next(clusters)
    found.wait_ready()
    return found


@pytest.fixture
def cluster(clusters: Iterator[Cluster]) -> Cluster:
    """A cluster of one test's own."""
    found = next(clusters)
    found.wait_ready()
    return found


def working(cluster: Cluster, work: Work) -> None:
    """Does some work with a store that follows."""

    async def main() -> None:
        async with following(cluster.url, TIMEOUT_SECONDS, STALENESS_SECONDS) as (store, heard):
            await work(store, heard)

    uvloop.run(main())


def values(found: Sequence[Record | None]) -> list[object]:
    """What records hold; "missing" for none."""
    return [codec.decode(each.codec, each.payload) if each else "missing" for each in found]


async def again(call: Callable[[], Awaitable[object]]) -> None:
    """Repeats a call until the store answers."""
    while True:
        with suppress(StoreUnavailable, OutcomeUnknown):
            await call()
            return
        await asyncio.sleep(0.02)


async def tells_of_changes(cluster: Cluster, heard: Heard) -> None:
    """Whoever has the keys now, its changes are told."""
    heard.events.clear()
    for key in KEYS:
        cluster.call("SET", key, "changed")
    for key in KEYS:
        await heard.until(partial(heard.names, key.encode()))


def is_anew(events: Sequence[object]) -> bool:
    """Whether all was declared invalid, and something is fresh since then."""
    if None not in events:
        return False
    last = len(events) - 1 - events[::-1].index(None)
    return any(isinstance(each, int) for each in events[last:])


def test_all_primaries_are_followed(shared_cluster: Cluster) -> None:
    async def work(store: ValkeyStore, heard: Heard) -> None:
        assert heard.events[0] is None
        await store.save_many([record(key, 1) for key in KEYS])
        await tells_of_changes(shared_cluster, heard)
        shared_cluster.servers[1].call("FLUSHALL")
        await heard.until(lambda: None in heard.events)

    working(shared_cluster, work)


def test_one_node_stands_still(shared_cluster: Cluster) -> None:
    """Its keys cannot be had; those of others can. Nothing is fresh, for it might have changed."""

    async def work(store: ValkeyStore, heard: Heard) -> None:
        victim = shared_cluster.owner("key 0")
        mine = [key for key in KEYS if shared_cluster.owner(key) is victim]
        others = [key for key in KEYS if key not in mine]
        await store.save_many([record(key, 1) for key in KEYS])
        since = len(heard.events)
        victim.signal(signal.SIGSTOP)
        try:
            assert values(await store.load_many(others)) == [1] * len(others)
            with pytest.raises(StoreUnavailable):
                await store.load_many(KEYS)
            with pytest.raises(OutcomeUnknown):
                await store.save_many([record(mine[0], 2), record(others[0], 2)])
            await heard.until(lambda: None in heard.events[since:])
            await heard.until(lambda: not heard.is_fresh)
        finally:
            victim.signal(signal.SIGCONT)
        since = len(heard.events)
        await heard.until(lambda: is_anew(heard.events[since:]))
        assert values(await store.load_many(mine[1:])) == [1] * len(mine[1:])
        await tells_of_changes(shared_cluster, heard)

    working(shared_cluster, work)


def test_one_node_refuses(shared_cluster: Cluster) -> None:
    """What others have taken is done, so nobody may say that nothing was changed."""

    async def work(store: ValkeyStore, _: Heard) -> None:
        full = shared_cluster.owner("key 0")
        mine = [key for key in KEYS if shared_cluster.owner(key) is full]
        full.call("CONFIG", "SET", "maxmemory", 1)
        try:
            with pytest.raises(OutcomeUnknown, match="maxmemory"):
                await store.save_many([record(key, 5) for key in KEYS])
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                await store.save_many([record(key, 5) for key in mine])
        finally:
            full.call("CONFIG", "SET", "maxmemory", 0)
        stored = values(await store.load_many(KEYS))
        assert stored.count(5) == len(KEYS) - len(mine)

    working(shared_cluster, work)


def test_one_node_is_killed_and_starts_again(cluster: Cluster) -> None:
    async def work(store: ValkeyStore, heard: Heard) -> None:
        victim = cluster.owner("key 0")
        await store.save_many([record(key, 1) for key in KEYS])
        since = len(heard.events)
        victim.kill()
        await heard.until(lambda: None in heard.events[since:])
        with pytest.raises(StoreUnavailable):  # nobody was there to send it to
            await store.save_many([record("key 0", 2)])
        with pytest.raises(OutcomeUnknown):  # others were
            await store.save_many([record(key, 2) for key in KEYS])
        await heard.until(lambda: not heard.is_fresh)
        since = len(heard.events)
        victim.start()
        await heard.until(lambda: is_anew(heard.events[since:]))
        await again(lambda: store.save_many([record("key 0", 3)]))
        assert values(await store.load_many(["key 0"])) == [3]
        await tells_of_changes(cluster, heard)
        victim.kill()  # the second time: a process that a test has started has to end with it

    working(cluster, work)


@pytest.mark.parametrize("how", ["killed", "stopped", "asked"])
def test_a_replica_takes_over(cluster: Cluster, how: str) -> None:
    primary, (replica,) = cluster.owner("key 0"), cluster.spares
    replica.call("CLUSTER", "REPLICATE", cluster.node_id(primary))
    wait_until(lambda: b"master_link_status:up" in replica.call("INFO", "replication"))

    async def work(store: ValkeyStore, heard: Heard) -> None:
        unaware = ValkeyStore(cluster.url, TIMEOUT_SECONDS, STALENESS_SECONDS)  # follows nothing
        await unaware.save_many([record(key, 1) for key in KEYS])
        assert values(await unaware.load_many(KEYS)) == [1] * len(KEYS)
        primary.call("WAIT", 1, 5000)
        since = len(heard.events)
        if how == "killed":
            primary.kill()
        elif how == "stopped":
            primary.signal(signal.SIGSTOP)
        else:
            replica.call("CLUSTER", "FAILOVER")
            await heard.until(lambda: is_anew(heard.events[since:]))  # noticed by itself
        await heard.until(lambda: cluster.owner("key 0") is replica)
        if how == "stopped":  # one call is lost to find out
            with pytest.raises(StoreUnavailable, match="in time"):
                await unaware.load_many(KEYS)
        assert values(await unaware.load_many(KEYS)) == [1] * len(KEYS)
        await again(lambda: store.save_many([record("key 0", 2)]))
        assert replica.call("EXISTS", "key 0")
        await heard.until(lambda: is_anew(heard.events[since:]))
        await tells_of_changes(cluster, heard)
        await unaware.close()

    working(cluster, work)


def test_a_slot_moves_to_a_node_that_is_new(cluster: Cluster) -> None:
    """First some keys (ASK), then the slot (MOVED), to a node that nobody follows yet."""
    (new,) = cluster.spares
    keys = [f"{number}{{tag}}" for number in range(20)]

    async def work(store: ValkeyStore, heard: Heard) -> None:
        slot = new.call("CLUSTER", "KEYSLOT", "{tag}")
        old = cluster.owner("{tag}")
        old_id, new_id = cluster.node_id(old), cluster.node_id(new)
        await store.save_many([record(key, 1) for key in keys])
        new.call("CLUSTER", "SETSLOT", slot, "IMPORTING", old_id)
        old.call("CLUSTER", "SETSLOT", slot, "MIGRATING", new_id)
        old.call("MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *keys[:10])
        since = len(heard.events)
        assert values(await store.load_many(keys)) == [1] * 20
        assert values([await store.increment(key, 1, None, 0) for key in keys]) == [2] * 20
        assert await store.delete_many([keys[0], keys[-1]]) == [True, True]
        await store.save_many([record(keys[0], 2), record(keys[-1], 2)])
        await heard.until(lambda: None in heard.events[since:])
        since = len(heard.events)
        rest = old.call("CLUSTER", "GETKEYSINSLOT", slot, 100)
        old.call("MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *rest)
        for server in (new, *cluster.servers):
            server.call("CLUSTER", "SETSLOT", slot, "NODE", new_id)
        assert values(await store.load_many(keys)) == [2] * 20
        assert values([await store.increment(key, 1, None, 0) for key in keys]) == [3] * 20
        await heard.until(lambda: is_anew(heard.events[since:]))
        heard.events.clear()
        new.call("SET", keys[0], os.urandom(8))
        await heard.until(lambda: heard.names(keys[0].encode()))

    working(cluster, work)


def test_a_map_that_is_out_of_date(shared_cluster: Cluster) -> None:
    """Two primaries exchange their slots; every command finds its way, in one call."""

    async def work(store: ValkeyStore, heard: Heard) -> None:
        one, two = (shared_cluster.owner(key) for key in ("a", "b"))
        assert one is not two
        slot = one.call("CLUSTER", "KEYSLOT", "a")
        for server in (two, one, *shared_cluster.servers):
            server.call("CLUSTER", "SETSLOT", slot, "NODE", shared_cluster.node_id(two))
        await store.save_many([record(key, key) for key in (*KEYS, "a", "b")])
        assert two.call("GET", "a")[10:] == b"a"
        two.call("DEL", "a")
        for server in (one, two, *shared_cluster.servers):
            server.call("CLUSTER", "SETSLOT", slot, "NODE", shared_cluster.node_id(one))
        assert await store.add(record("a", 1))
        assert one.call("GET", "a") == b"1"
        await heard.until(lambda: heard.is_fresh)

    working(shared_cluster, work)
