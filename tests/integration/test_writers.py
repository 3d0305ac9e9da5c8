"""Trusted writers beside a real server: who may be one, how many, and through what they go on."""

from __future__ import annotations

import grp
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from configuring import change
from crews import Member, crew, together
from servers import Server, StartServer, clean_up

import kvserve
from kvserve.errors import (
    ClientClosed,
    InvalidArgument,
    ServerBusy,
    ServerUnavailable,
    ValueTooLarge,
    WriteRefused,
)
from kvserve.limits import LEASE_SLOT_WRITER_FIRST
from kvserve.names import Names
from kvserve.table._core import LAYOUT
from kvserve.table.segment import attach

Eventually = Callable[[Callable[[], object]], None]
STRANGER = 65_534
LOCK_WORD = struct.Struct("<Q")
INCARNATIONS_AT = 2048  # see struct kv_superblock in core/layout.h


@pytest.fixture
def server(make_server: StartServer) -> Server:
    """A small server that lets two processes write into its table."""
    return make_server("--writers", "2", "--shards", "2")


@pytest.fixture
def members() -> Iterator[Callable[[Callable[[Connection], Any]], Member]]:
    """Forks processes, which are ended afterwards."""
    with ExitStack() as stack:

        def fork(work: Callable[[Connection], Any]) -> Member:
            member = Member(work)
            stack.callback(member.end)
            return member

        yield fork


def direct(server: Server, **options: Any) -> kvserve.Client:
    """A trusted writer."""
    return server.connect(write="direct", **options)


def writers(server: Server) -> int:
    """How many processes write into the table now."""
    with server.connect() as cache:
        return int(cache.stats()["writers"])


# Who may.


def test_off_by_default(make_server: StartServer) -> None:
    with pytest.raises(WriteRefused, match=r"kvserve serve --writers N$"):
        direct(make_server())


def test_ways_that_are_none(server: Server) -> None:
    with pytest.raises(InvalidArgument, match="write = 'table'"):
        server.connect(write="table")
    with pytest.raises(InvalidArgument, match="read = 'direct'"):
        direct(server, read="worker")
    assert writers(server) == 0


def test_nobody_serves(names: Names) -> None:
    with pytest.raises(ServerUnavailable, match=f"kvserve serve --name {names.name}"):
        kvserve.connect(names.name, write="direct")


def test_not_with_a_store(make_server: StartServer, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'cache.db'}"
    with pytest.raises(WriteRefused, match="store"):
        direct(make_server("--store", url))
    refused = make_server("--store", url, "--writers", "1", wait=False)
    refused.process.wait(60)
    assert "with a store all writes go through the workers" in refused.log


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_member_of_the_group_may_not(
    make_server: StartServer, new_names: Any, eventually: Eventually
) -> None:
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        name = new_names().name
        names = Names(name, Path(root) / name)
        group = grp.getgrgid(os.getgid()).gr_name
        server = make_server("--writers", "1", "--group", group, names=names, wait=False)
        eventually(lambda: "ready: " in server.log)
        program = (
            "import os, sys, kvserve, kvserve.client.writing\n"  # its files may be ours alone
            f"os.setgroups([{os.getgid()}]); os.setuid({STRANGER})\n"
            "with kvserve.connect(sys.argv[1]) as cache: cache.set('key', 1)\n"
            "try: kvserve.connect(sys.argv[1], write='direct')\n"
            "except kvserve.WriteRefused as error: print(error)\n"
        )
        environment = os.environ | {"KVSERVE_RUNTIME_DIR": root, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", program, server.name],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        server.stop()
        clean_up(names)
        assert done.stdout.startswith("only root, whose server this is, and root may"), done.stderr


# How many.


def test_all_places_are_taken(server: Server, members: Any) -> None:
    def write(pipe: Connection) -> None:
        with direct(server):
            pipe.send("in")
            pipe.recv()

    both = [members(write) for _ in range(2)]
    assert [member.hear() for member in both] == ["in", "in"]
    with pytest.raises(ServerBusy, match=r"2 processes .* kvserve serve --writers 4$"):
        direct(server)
    both[0].signal(signal.SIGKILL)
    give_up = time.monotonic() + 30
    while True:
        try:
            with direct(server) as cache:
                assert cache.set("key", 1) > 0
            break
        except ServerBusy:
            assert time.monotonic() < give_up
    both[1].tell()
    both[1].hear()


def test_clients_of_a_process_share_one_place(server: Server) -> None:
    first, second = direct(server), direct(server)
    assert writers(server) == 1
    first.set("key", 1)
    first.close()
    with pytest.raises(ClientClosed):
        first.set("key", 2)
    assert writers(server) == 1  # to close a descriptor of the lease file would have lost it
    second.set("key", 3)
    second.close()
    assert writers(server) == 0


def test_a_forked_child_takes_a_place_of_its_own(server: Server) -> None:
    with direct(server) as cache:
        cache.set("key", "parent")

        def inherit(_: int) -> int:
            cache.set("key", "child")
            return writers(server)

        assert together(1, inherit) == [2]
        assert cache.get("key") == "child"
        assert writers(server) == 1
        cache.set("key", "parent again")
        assert cache.verify() == []


def test_a_forked_child_finds_no_place(make_server: StartServer) -> None:
    server = make_server("--writers", "1")
    with direct(server) as cache:

        def inherit(_: int) -> str:
            try:
                cache.set("key", "child")
            except ServerBusy as error:
                return str(error)
            return ""

        assert "1 processes write" in together(1, inherit)[0]
        assert cache.set("key", "parent") > 0
        assert cache.get("key") == "parent"


def test_threads_of_two_processes_lose_no_count(server: Server) -> None:
    threads, increments = 4, 2000

    def count(_: int) -> None:
        with direct(server) as cache:

            def turn() -> None:
                for _ in range(increments):
                    cache.incr("counter")

            own = [threading.Thread(target=turn) for _ in range(threads)]
            for thread in own:
                thread.start()
            for thread in own:
                thread.join()

    together(2, count)
    with server.connect() as cache:
        assert cache.get("counter") == 2 * threads * increments
        assert cache.verify() == []


# Settings, limits, and the feed.


def test_live_settings_reach_a_writer(server: Server) -> None:
    with direct(server) as cache:
        cache.set("key", bytes(1000))
        assert cache.ttl("key") == float("inf")
        change(server, "max_value", "500")
        with pytest.raises(ValueTooLarge, match="at most 500"):
            cache.set("key", bytes(1000))
        with pytest.raises(ValueTooLarge, match="at most 500"):
            cache.set_many({"a": 1, "b": bytes(1000)})
        assert "a" not in cache
        change(server, "default_ttl", "60")
        cache.set("key", 1)
        cache.set_many({"many": 1})
        with cache.pipeline() as pipeline:
            pipeline.set("batch", 1)
        for key in ("key", "many", "batch"):
            assert 0 < cache.ttl(key) <= 60


def test_a_limiter_counts_with_the_ordinary_clients(server: Server) -> None:
    with direct(server) as cache, server.connect() as other:
        hits = [client.limiter("login", rate=3, per=60).hit("Ada") for client in (cache, other) * 2]
    assert [bool(hit) for hit in hits] == [True, True, True, False]


def test_watchers_see_the_events_of_a_key_in_order(server: Server) -> None:
    changes = 1500

    def work(pipe: Connection, number: int) -> None:
        with server.connect(write="direct" if number else "worker", timeout=20.0) as cache:
            for turn in range(changes):
                cache.set("contended", turn)
                if turn % 10 == 0:
                    cache.delete("contended")
        pipe.send("done")

    versions: list[tuple[int, bool]] = []
    with server.connect() as cache:
        events = cache.watch("contended", timeout=5)
        with crew(3, work) as working:
            for event in events:
                assert event.kind in ("set", "delete"), event
                versions.append((event.version, event.kind == "delete"))
                if sum(not is_end for _, is_end in versions) == 3 * changes:
                    break
            assert [member.hear() for member in working] == ["done"] * 3
    assert len(set(versions)) == len(versions)
    assert versions == sorted(versions)


@pytest.mark.parametrize("end", ["closed", "left", "killed"])
def test_watchers_are_told_of_a_killed_writer_alone(server: Server, end: str) -> None:
    program = (
        "import sys, kvserve\n"
        "cache = kvserve.connect(sys.argv[1], write='direct')\n"
        "cache.set('key', 1)\n"
        "print('set', flush=True)\n"
        "sys.stdin.read()\n"
        "if sys.argv[2] == 'closed': cache.close()\n"
    )
    with server.connect() as cache:
        events = cache.watch(timeout=2)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", program, server.name, end], **pipes) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"set\n"
            if end == "killed":
                writer.kill()
            writer.communicate()
        assert [event.kind for event in events] == ["set"] + ["lost"] * (end == "killed")


# Death, and servers that come and go.


def hold_all_locks(server: Server, slot: int) -> None:
    """Makes it look as if who has this slot had been stopped inside every shard."""
    with attach(server.names.table, os.geteuid(), writable=True) as table:
        (incarnation,) = LOCK_WORD.unpack_from(table, INCARNATIONS_AT + 8 * slot)
        with server.connect() as cache:
            shards = cache.stats()["shards"]
        shard_bytes = (len(table) - LAYOUT["superblock_bytes"]) // shards
        for shard in range(shards):
            place = LAYOUT["superblock_bytes"] + shard * shard_bytes
            LOCK_WORD.pack_into(table, place, incarnation << 16 | slot + 1)


def test_a_stopped_writer_makes_others_busy_and_a_killed_one_does_not(
    server: Server, members: Any
) -> None:
    def stay(pipe: Connection) -> None:
        with direct(server) as cache:
            cache.set("key", "kept")
            pipe.send("in")
            pipe.recv()

    member = members(stay)
    assert member.hear() == "in"
    with direct(server, timeout=0.2) as cache:
        hold_all_locks(server, LEASE_SLOT_WRITER_FIRST)
        began = time.monotonic()
        with pytest.raises(ServerBusy, match=f"lease slot {LEASE_SLOT_WRITER_FIRST}"):
            cache.set("key", 1)
        with pytest.raises(ServerBusy):
            cache.set_many({"key": 1, "other": 2})
        assert time.monotonic() - began >= 0.4
        assert cache.get("key") == "kept"
        os.kill(member.pid, signal.SIGKILL)
        os.waitid(os.P_PID, member.pid, os.WEXITED | os.WNOWAIT)
        cache.set("key", "taken from the dead")
        assert cache.get("key") == "taken from the dead"
        assert cache.verify() == []
        assert cache.stats()["lock_recoveries"] >= 2


def test_the_parent_frees_what_nobody_comes_to(
    server: Server, members: Any, eventually: Eventually
) -> None:
    def stay(pipe: Connection) -> None:
        with direct(server):
            pipe.send("in")
            pipe.recv()

    member = members(stay)
    assert member.hear() == "in"
    hold_all_locks(server, LEASE_SLOT_WRITER_FIRST)
    os.kill(member.pid, signal.SIGKILL)
    eventually(lambda: "locks that a killed writer held" in server.log)


def test_writing_goes_on_over_a_killed_server(make_server: StartServer, server: Server) -> None:
    with direct(server) as cache:
        cache.set("before", 1)
        pids = [server.pid, *server.worker_pids]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        server.process.wait()
        cache.set("between", 2)  # the table lives; the next server takes it over
        again = make_server("--writers", "2", "--shards", "2", names=server.names)
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
    from commands import kvserve as run

    with direct(server) as cache:
        cache.set("key", 1)
        for pid in [server.pid, *server.worker_pids]:
            os.kill(pid, signal.SIGKILL)
        server.process.wait()
        refused = run("verify", "--name", server.name)
        assert (refused.returncode, str(os.getpid()).encode() in refused.stderr) == (3, True)
    done = run("verify", "--name", server.name)
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
    server: Server, make_server: StartServer, members: Any
) -> None:
    def stay(pipe: Connection) -> None:
        with direct(server):
            pipe.send("in")
            pipe.recv()

    member = members(stay)
    assert member.hear() == "in"
    hold_all_locks(server, LEASE_SLOT_WRITER_FIRST)
    member.signal(signal.SIGSTOP)
    for pid in [server.pid, *server.worker_pids]:
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    refused = make_server("--writers", "2", "--shards", "2", names=server.names, wait=False)
    assert refused.process.wait(60) != 0
    assert f"kill -9 {member.pid}, or start with --fresh" in refused.log
    os.kill(member.pid, signal.SIGKILL)
    make_server("--writers", "2", "--shards", "2", names=server.names)
