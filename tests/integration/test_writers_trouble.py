"""Trusted writers that die or are stopped, and servers that come and go under living ones."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import ways
from support.commands import kvserve as run_command
from support.servers import Server, StartServer, impatient
from support.trusted import direct, staying, writers

import kvserve
from kvserve.client.blocking.direct import DirectClient
from kvserve.client.writer import executor
from kvserve.client.writer.slot import WriterSlot, enter
from kvserve.errors import ClientClosed, RequestTimeout, ServerBusy, WriteRefused
from kvserve.limits import LEASE_SLOT_WRITER_FIRST
from kvserve.names import Names
from kvserve.table._core import LAYOUT
from kvserve.table.segment import attach

Eventually = Callable[[Callable[[], object]], None]
SERVE = ("--writers", "2", "--shards", "2")
LOCK_WORD = struct.Struct("<Q")
INCARNATIONS_AT = 2048  # see struct kv_superblock in core/layout.h


@pytest.fixture
def server(make_server: StartServer) -> Server:
    """A small server that lets two processes write into its table."""
    return make_server(*SERVE)


def hold_locks(server: Server, slot: int, only: int | None = None) -> None:
    """Makes it look as if who has this slot had been stopped inside every shard, or one."""
    with attach(server.names.table, os.geteuid(), writable=True) as table:
        (incarnation,) = LOCK_WORD.unpack_from(table, INCARNATIONS_AT + 8 * slot)
        with server.connect() as cache:
            shards = cache.stats()["shards"]
        shard_bytes = (len(table) - LAYOUT["superblock_bytes"]) // shards
        for shard in range(shards) if only is None else [only]:
            place = LAYOUT["superblock_bytes"] + shard * shard_bytes
            LOCK_WORD.pack_into(table, place, incarnation << 16 | slot + 1)


def test_a_stopped_writer_makes_others_busy_and_a_killed_one_does_not(server: Server) -> None:
    with staying(server) as member, direct(server) as cache:
        hold_locks(server, LEASE_SLOT_WRITER_FIRST)
        began = time.monotonic()
        with impatient(cache, 0.2):
            with pytest.raises(ServerBusy, match=f"lease slot {LEASE_SLOT_WRITER_FIRST}"):
                cache.set("key", 1)
            with pytest.raises(ServerBusy):
                cache.set_many({"key": 1, "other": 2})
        assert time.monotonic() - began >= 0.4
        assert cache.get("key") == "kept"  # hits go on
        os.kill(member.pid, signal.SIGKILL)
        os.waitid(os.P_PID, member.pid, os.WEXITED | os.WNOWAIT)
        cache.set("key", "taken from the dead")
        assert cache.get("key") == "taken from the dead"
        assert cache.verify() == []
        assert cache.stats()["lock_recoveries"] >= 2


@pytest.mark.parametrize("way", ["writer", "async-writer"])
def test_busy_promises_that_nothing_of_a_batch_was_changed(server: Server, way: str) -> None:
    with staying(server), closing(ways.connect(way, server.name, timeout=0.1)) as cache:
        with direct(server) as reader:
            keys = [f"key {number}" for number in range(100)]
            free = next(key for key in keys if reader._shard_of(key) == 0)
            held = next(key for key in keys if reader._shard_of(key) == 1)
        hold_locks(server, LEASE_SLOT_WRITER_FIRST, only=1)
        for call, left in ((cache.set_many, 2), (cache.delete_many, None)):
            with pytest.raises(ServerBusy):
                call({held: 1})
            with pytest.raises(RequestTimeout):
                call({free: 2, held: 1})
            assert cache.get(free) == left


@pytest.mark.parametrize("way", ["writer", "async-writer"])
def test_a_pipeline_says_as_one_that_nothing_may_be_written(
    server: Server, make_server: StartServer, way: str
) -> None:
    with closing(ways.connect(way, server.name)) as cache:
        server.stop()
        make_server("--shards", "2", names=server.names)
        pipeline = cache.pipeline().set("key", 1)
        run = getattr(cache, "run", lambda results: results)
        with pytest.raises(WriteRefused):
            run(pipeline.execute(raise_on_error=False))


def test_an_event_loop_goes_on_while_a_lock_is_held(server: Server) -> None:
    async def main() -> None:
        async with await kvserve.connect_async(server.name, write="direct", timeout=20) as cache:
            with impatient(cache, 1.0):
                waiting = asyncio.create_task(cache.set("key", "new"))
                while not waiting.done():
                    assert await cache.get("key") == "kept"
                    turns.append(await asyncio.sleep(0.01))
                with pytest.raises(ServerBusy):
                    await waiting
                async with cache.pipeline() as pipeline:
                    results = await pipeline.set("key", 1).get("key").execute(raise_on_error=False)
                assert isinstance(results[0], ServerBusy)
            os.kill(member.pid, signal.SIGKILL)
            os.waitid(os.P_PID, member.pid, os.WEXITED | os.WNOWAIT)
            await cache.set("key", "new")
            assert await cache.get("key") == "new"

    turns: list[None] = []
    with staying(server) as member:
        hold_locks(server, LEASE_SLOT_WRITER_FIRST)
        asyncio.run(main())
    assert len(turns) > 5


def test_the_parent_frees_what_nobody_comes_to(server: Server, eventually: Eventually) -> None:
    with staying(server) as member:
        hold_locks(server, LEASE_SLOT_WRITER_FIRST)
        os.kill(member.pid, signal.SIGKILL)
        eventually(lambda: "locks that a killed writer held" in server.log)


def test_writing_goes_on_over_a_killed_server(make_server: StartServer, server: Server) -> None:
    with direct(server) as cache:
        cache.set("before", 1)
        server.kill_everything()
        cache.set("between", 2)  # the table lives; the next server takes it over
        again = make_server(*SERVE, names=server.names)
        assert "0 items kept" not in again.log
        cache.set("after", 3)
        with server.connect() as other:
            assert other.get_many(["before", "between", "after"]) == {
                "before": 1, "between": 2, "after": 3,
            }  # fmt: skip
            events = other.watch("after", timeout=5)
            cache.set("after", 4)
            assert next(events).key == "after"  # in the new server's feed
        assert writers(server) == 1
        assert cache.verify() == []


def test_a_kept_table_that_is_written_to_is_not_verified(
    server: Server, make_server: StartServer
) -> None:
    with direct(server) as cache:
        cache.set("key", 1)
        server.kill_everything()
        refused = run_command("verify", "--name", server.name)
        assert (refused.returncode, str(os.getpid()).encode() in refused.stderr) == (3, True)
    done = run_command("verify", "--name", server.name)
    assert done.returncode == 0, done.stderr
    make_server(names=server.names)


def test_a_server_with_fewer_writers_sends_them_away(
    server: Server, make_server: StartServer
) -> None:
    with direct(server) as cache:
        cache.set("key", "old")
        server.stop()
        make_server("--shards", "2", names=server.names)
        with pytest.raises(WriteRefused):
            cache.set("key", "new")
        with pytest.raises(WriteRefused):
            cache.set_many({"key": "new"})
        assert cache.get("key") == "old"


def test_a_kept_table_in_the_hands_of_a_stopped_writer_is_not_served(
    server: Server, make_server: StartServer
) -> None:
    with staying(server) as member:
        hold_locks(server, LEASE_SLOT_WRITER_FIRST)
        member.signal(signal.SIGSTOP)
        server.kill_everything()
        refused = make_server(*SERVE, names=server.names, wait=False)
        assert refused.process.wait(60) != 0
        assert f"kill -9 {member.pid}, or start with --fresh" in refused.log
    with make_server(*SERVE, names=server.names).connect() as cache:
        assert cache.get("key") == "kept"


def close_in_a_thread(cache: kvserve.Client) -> None:
    thread = threading.Thread(target=cache.close)
    thread.start()
    thread.join()


def test_a_client_that_is_closed_while_another_thread_takes_its_place(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enter_late(names: Names, client: object) -> WriterSlot:
        slot = enter(names, client)
        close_in_a_thread(cache)
        return slot

    cache = direct(server)
    cache._drop_writer()  # type: ignore[attr-defined]  # so that the next write looks for a place
    monkeypatch.setattr(executor, "enter", enter_late)
    with pytest.raises(ClientClosed):
        cache.set("key", 1)
    assert writers(server) == 0


def test_a_client_that_is_closed_before_another_thread_uses_its_place(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sit_down_early(client: DirectClient) -> None:
        sit_down(client)
        close_in_a_thread(client)

    cache = direct(server)
    cache._drop_writer()  # type: ignore[attr-defined]
    sit_down = DirectClient._join_writers
    monkeypatch.setattr(DirectClient, "_join_writers", sit_down_early)
    with pytest.raises(ClientClosed):
        cache.delete("key")
    assert writers(server) == 0


def lose_lease(slot: Any) -> None:
    """Its descriptor becomes one of another file, as in a program that closes all of them."""
    with Path(os.devnull).open() as other:
        os.dup2(other.fileno(), slot._lease.file.number)


def in_a_pipeline(cache: Any) -> Any:
    with cache.pipeline() as pipeline:
        pipeline.incr("number")
    return pipeline.results


WRITES: dict[str, Callable[[Any], Any]] = {
    "set": lambda cache: cache.set("key", 2) > 0,
    "add": lambda cache: cache.add("new", 2),
    "cas": lambda cache: cache.cas("key", 2, cache.gets("key")[1]),
    "touch": lambda cache: cache.touch("key", ttl=60),
    "incr": lambda cache: cache.incr("number") == 1,
    "delete_many": lambda cache: cache.delete_many(["key"]) == 1,
    "set_many": lambda cache: cache.set_many({"key": 2, "other": 3}) is None,
    "pipeline": lambda cache: in_a_pipeline(cache) == [1],
    "get_or_set": lambda cache: cache.get_or_set("new", lambda: 2) == 2,
    "delete": lambda cache: cache.delete("key"),
}


@pytest.mark.parametrize("way", ["writer", "async-writer"])
def test_a_lease_that_is_lost_while_a_lock_is_waited_for(server: Server, way: str) -> None:
    """Another one is taken, and the write is done: no caller hears of it."""
    with staying(server) as member, closing(ways.connect(way, server.name)) as cache:
        table = (cache._client if way == "async-writer" else cache)._table
        os.kill(member.pid, signal.SIGKILL)
        os.waitid(os.P_PID, member.pid, os.WEXITED | os.WNOWAIT)
        for name, write in WRITES.items():
            cache.set("key", 1)
            cache.delete_many(["number", "new"])
            slot = table._slot
            lose_lease(slot)
            hold_locks(server, LEASE_SLOT_WRITER_FIRST)
            assert write(cache), name
            assert table._slot is not slot, name
        assert cache.verify() == []
    assert writers(server) == 0
