"""Trusted writers beside a real server: who may be one, how many, and what they share."""

from __future__ import annotations

import grp
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from support.configuring import change
from support.crews import crew, together
from support.servers import Server, StartServer, clean_up
from support.trusted import direct, staying, writers

import kvserve
from kvserve.errors import (
    ClientClosed,
    InvalidArgument,
    ServerBusy,
    ServerUnavailable,
    ValueTooLarge,
    WriteRefused,
)
from kvserve.limits import KEY_BYTES_MAX
from kvserve.names import Names

Eventually = Callable[[Callable[[], object]], None]
STRANGER = 65_534


@pytest.fixture
def server(make_server: StartServer) -> Server:
    """A small server that lets two processes write into its table."""
    return make_server("--writers", "2", "--shards", "2")


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
            "import os, sys, kvserve.client.blocking.direct\n"  # its files may be ours alone
            f"os.setgroups([{os.getgid()}]); os.setuid({STRANGER})\n"
            "with kvserve.connect(sys.argv[1], timeout=20) as cache: cache.set('key', 1)\n"
            "try: kvserve.connect(sys.argv[1], timeout=20, write='direct')\n"
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


def test_all_places_are_taken(server: Server, eventually: Eventually) -> None:
    with staying(server) as first, staying(server) as second:
        with pytest.raises(ServerBusy, match=r"2 processes .* kvserve serve --writers 4$"):
            direct(server)
        os.kill(first.pid, signal.SIGKILL)
        eventually(lambda: writers(server) == 1)
        with direct(server) as cache:
            assert cache.set("key", 1) > 0
        second.tell()
        assert second.hear() is None
    assert writers(server) == 0


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


@pytest.mark.parametrize("write", ["worker", "direct"])
def test_what_a_tiny_table_cannot_hold_does_not_stop_the_rest(
    make_server: StartServer, write: str
) -> None:
    sizes = ("--memory", "64KiB", "--max-value", "16KiB", "--shards", "1", "--workers", "1")
    with make_server("--writers", "1", *sizes).connect(write=write) as cache:
        longest = cache.stats()["value_bytes_max"]
        with pytest.raises(ValueTooLarge, match="tiny table"):
            cache.set_many({"k" * KEY_BYTES_MAX: bytes(longest), "key": 1})
        assert cache.get("key") == 1


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
        "cache = kvserve.connect(sys.argv[1], timeout=20, write='direct')\n"
        "cache.set('key', 1)\n"
        "print('set', flush=True)\n"
        "sys.stdin.read()\n"
        "if sys.argv[2] == 'closed': cache.close()\n"
    )
    with server.connect() as cache:
        expected = ["set"] + ["lost"] * (end == "killed")
        events = cache.watch(timeout=20 if end == "killed" else 2)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", program, server.name, end], **pipes) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"set\n"
            if end == "killed":
                writer.kill()
            writer.communicate()
        # Of the killed one the parent tells; of the others nobody does.
        assert [event.kind for event in islice(events, 2)] == expected
