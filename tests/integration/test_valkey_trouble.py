"""The store over Valkey in bad weather: refusals and unknown outcomes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import hiredis
import pytest
import uvloop
from support.stores import record
from support.valkeys import Valkey, free_ports, relay, serve

from kvserve.errors import OutcomeUnknown, StoreUnavailable
from kvserve.protocol import codec
from kvserve.store.valkey.store import ValkeyStore

Work = Callable[[ValkeyStore], Awaitable[None]]
PASSWORD = "a/b@c:d e"


@pytest.fixture(scope="module")
def shared_valkey() -> Iterator[Valkey]:
    """A server, also on a port, that every test leaves as it was."""
    with serve(port=free_ports(1)[0]) as server:
        yield server


@pytest.fixture
def valkey(shared_valkey: Valkey) -> Valkey:
    """The same, and empty."""
    shared_valkey.call("FLUSHALL")
    return shared_valkey


@asynccontextmanager
async def opened(url: str, timeout_seconds: float = 20.0) -> AsyncIterator[ValkeyStore]:
    """A store for a block of code."""
    store = ValkeyStore(url, timeout_seconds, staleness_seconds=1.0)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def working(url: str, work: Work, timeout_seconds: float = 20.0) -> None:
    """Does some work with a store."""

    async def main() -> None:
        async with opened(url, timeout_seconds) as store:
            await work(store)

    uvloop.run(main())


async def refuses_all_changes(store: ValkeyStore, text: str) -> None:
    """Every change is refused, in words that say why."""
    (seen,) = await store.load_many(["key"])
    assert seen is not None
    changes: list[Awaitable[object]] = [
        store.save_many([record("key", 1), record("other", 1)]),
        store.add(record("new", 1)),
        store.replace(record("key", 1)),
        store.compare_and_set(seen, record("key", 1)),
        store.increment("new", 1, 0, 0),
    ]
    for change in changes:
        with pytest.raises(StoreUnavailable, match=text):
            await change
    assert await store.load_many(["key", "new"]) == [seen, None]


def test_a_full_server(valkey: Valkey) -> None:
    async def work(store: ValkeyStore) -> None:
        await store.save_many([record("key", "old")])
        valkey.call("CONFIG", "SET", "maxmemory", 1)
        try:
            await refuses_all_changes(store, "maxmemory")
        finally:
            valkey.call("CONFIG", "SET", "maxmemory", 0)

    working(valkey.url, work)


def test_a_primary_that_became_a_replica(valkey: Valkey) -> None:
    async def work(store: ValkeyStore) -> None:
        await store.save_many([record("key", "old")])
        valkey.call("CONFIG", "SET", "replica-serve-stale-data", "yes")
        valkey.call("REPLICAOF", "127.0.0.1", 1)
        try:
            await refuses_all_changes(store, "read only")
            # Its name may be another server's by now.
            with pytest.raises(StoreUnavailable):
                await store.add(record("new", 1))
            while b"name=kvserve" in valkey.call("CLIENT", "LIST"):
                await asyncio.sleep(0.01)
        finally:
            valkey.call("REPLICAOF", "NO", "ONE")
        await store.save_many([record("key", "new")])

    working(valkey.url, work)


def test_a_server_that_still_reads_its_data() -> None:
    flags = ["--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024"]
    with serve(*flags) as own:
        for number in range(150):
            own.call("SET", f"key {number}", os.urandom(2000))  # that cannot be compressed
        own.call("SAVE")
        own.kill()

        async def work(store: ValkeyStore) -> None:
            with pytest.raises(StoreUnavailable, match="reading its data"):
                await store.load_many(["key 1"])
            with pytest.raises(StoreUnavailable, match="reading its data"):
                await store.add(record("key", 1))
            while True:
                with suppress(StoreUnavailable):
                    assert await store.load_many(["key 1"]) != [None]
                    return
                await asyncio.sleep(0.02)

        own.start()
        working(own.url, work)


def test_nobody_listens(tmp_path: Path) -> None:
    async def work(store: ValkeyStore) -> None:
        for call in (
            store.load_many(["key"]),
            store.save_many([record("key", 1)]),
            store.increment("key", 1, 0, 0),
        ):
            with pytest.raises(StoreUnavailable, match=r"nobody cannot be used"):
                await call

    working(f"unix://{tmp_path}/nobody", work)


def test_no_answer_in_time(valkey: Valkey) -> None:
    """A read failed; a write was perhaps done, and here it is, once."""

    async def work(store: ValkeyStore) -> None:
        # As many connections: a call that has to open one first has sent nothing.
        while valkey.call("CLIENT", "LIST").count(b"name=kvserve") < 4:
            await asyncio.gather(*(store.load_many(["key"]) for _ in range(4)))
        store.tune(0.2, 1.0)
        valkey.signal(signal.SIGSTOP)
        try:
            outcomes = await asyncio.gather(
                store.load_many(["key"]),
                store.increment("key", 1, 0, 0),
                store.save_many([record("other", 1)]),
                store.delete_many(["third"]),
                return_exceptions=True,
            )
            kinds = [type(outcome) for outcome in outcomes]
            assert kinds == [StoreUnavailable, OutcomeUnknown, OutcomeUnknown, OutcomeUnknown]
            assert all("did not answer in time" in str(outcome) for outcome in outcomes)
            with pytest.raises(StoreUnavailable, match="in time"):
                await store.increment("key", 1, 0, 0)
        finally:
            store.tune(20.0, 1.0)
            valkey.signal(signal.SIGCONT)
        while await store.load_many(["other"]) == [None]:
            await asyncio.sleep(0.01)
        assert valkey.call("GET", "key") == b"1"

    working(valkey.url, work)


def test_a_connection_that_is_lost_after_the_command_was_sent(valkey: Valkey) -> None:
    """It was executed, and nothing sends it again."""

    async def main() -> None:
        async with relay(valkey) as (port, cut), opened(f"valkey://127.0.0.1:{port}") as store:
            await store.increment("key", 1, 0, 0)
            cut.set()
            with pytest.raises(OutcomeUnknown):
                await store.increment("key", 1, 0, 0)
            with pytest.raises(OutcomeUnknown):
                await store.add(record("other", 1))
            with pytest.raises(StoreUnavailable):
                await store.load_many(["key"])
            cut.clear()
            counter = await store.increment("key", 1, 0, 0)
            assert counter is not None
            assert codec.decode(counter.codec, counter.payload) == 3
            assert not await store.add(record("other", 1))

    uvloop.run(main())


def test_a_password_that_is_asked_for_later_on() -> None:
    async def work(store: ValkeyStore) -> None:
        await store.save_many([record("key", 1)])
        own.call("CONFIG", "SET", "requirepass", PASSWORD)
        own.call("CLIENT", "KILL", "TYPE", "normal", password=PASSWORD)  # who is in stays in
        said = ""
        while "Authentication" not in said:  # until the end of the connections was noticed
            with pytest.raises((StoreUnavailable, OutcomeUnknown)) as caught:
                await store.increment("key", 1, None, 0)
            said = str(caught.value)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="Authentication"):
                await store.increment("key", 1, None, 0)

    with serve() as own:
        working(own.url, work)


def test_a_wrong_password() -> None:
    async def work(store: ValkeyStore) -> None:
        with pytest.raises(StoreUnavailable, match="password"):
            await store.save_many([record("key", 1)])

    with serve("--requirepass", PASSWORD) as own:
        working(f"unix://:wrong@{own.socket}", work)


def test_a_primary_that_is_cut_off_from_its_cluster() -> None:
    """It still believes that the slots are its own, but may not serve them; others know better."""

    async def main() -> None:
        ports = free_ports(2)
        served: set[asyncio.StreamWriter] = set()

        def node(owner: int, reply: bytes) -> Callable[..., Awaitable[None]]:
            answers = {
                b"HELLO": b"*2\r\n$4\r\nmode\r\n$7\r\ncluster\r\n",
                b"CLUSTER": b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % owner,
                b"CLIENT": b"+OK\r\n",
            }

            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                served.add(writer)
                parser = hiredis.Reader()
                while data := await reader.read(4096):
                    parser.feed(data)
                    while words := parser.gets():
                        writer.write(answers.get(words[0], reply))
                writer.close()
                served.discard(writer)

            return answer

        cut_off = node(ports[0], b"-CLUSTERDOWN The cluster is down\r\n")
        successor = node(ports[1], b":1\r\n")
        url = ",".join(f"127.0.0.1:{port}" for port in ports)
        async with (
            await asyncio.start_server(cut_off, "127.0.0.1", ports[0]),
            await asyncio.start_server(successor, "127.0.0.1", ports[1]),
            opened(f"valkey://{url}") as store,
        ):
            assert await store.delete_many(["a", "b"]) == [True, True]
        while served:
            await asyncio.sleep(0.001)

    asyncio.run(main())
