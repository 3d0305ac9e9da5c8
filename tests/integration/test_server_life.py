"""What befalls real servers: deaths, signals, lost names; and their life in the background."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.commands import answers, kvserve
from support.leftovers import leftovers, processes

from kvserve.errors import ServerError
from kvserve.names import Names
from kvserve.parent.housekeeping import memory_path
from kvserve.runtime import holder
from kvserve.table._core import LAYOUT
from kvserve.table.table import kept

if TYPE_CHECKING:
    from conftest import Eventually
    from support.servers import Server, StartServer

ITEMS_AT = 168  # in a shard's header, see core/layout.h


def test_memory_is_touched_once_it_serves(make_server: StartServer, eventually: Eventually) -> None:
    with closing(mmap.mmap(-1, mmap.PAGESIZE)) as memory:
        try:
            memory.madvise(23)
        except OSError:
            pytest.skip("needs MADV_POPULATE_WRITE, of Linux 5.14")
    server = make_server("--memory", "64MiB")
    eventually(lambda: all(size == touched > 0 for size, touched in mapped(server)))


def mapped(server: Server) -> list[tuple[int, int]]:
    """The KiB of the table and of the hints, and how many of them the parent has mapped."""
    found = []
    maps = Path(f"/proc/{server.pid}/smaps").read_text()
    for name in (server.names.table, server.names.hints):
        figures = maps.partition(str(memory_path(name)))[2].split()
        found.append(tuple(int(figures[figures.index(what) + 1]) for what in ("Size:", "Rss:")))
    return found


def test_a_killed_worker_is_replaced(server: Server, eventually: Eventually) -> None:
    with server.connect() as cache:
        cache.set("a", 1)
        victim = server.worker_pids[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: f"(pid {victim}) was killed by SIGKILL" in server.log)
        eventually(lambda: len(server.worker_pids) == 2 and victim not in server.worker_pids)
        for number in range(20):  # some for either worker
            cache.set(f"key {number}", number)
        assert cache.get("a") == 1


@pytest.mark.parametrize("shard", range(4))
def test_a_kept_table_with_a_damaged_shard_is_replaced(
    make_server: StartServer, eventually: Eventually, shard: int
) -> None:
    first = make_server("--shards", "4")
    with first.connect() as cache:
        cache.set("a", 1)
    first.stop()
    with memory_path(first.names.table).open("r+b") as file:
        file.seek(LAYOUT["superblock_bytes"] + shard * kept(first.names).shard_bytes + ITEMS_AT)
        file.write((12_345).to_bytes(8, "little"))
    second = make_server("--shards", "4", names=first.names)
    assert f"the kept table is damaged: shard {shard}: V8 is violated" in second.log
    eventually(lambda: "0 items kept from before" in second.log)


def test_all_workers_killed_at_once_are_replaced(server: Server, eventually: Eventually) -> None:
    with server.connect(timeout=20) as cache:
        victims = server.worker_pids
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        for number in range(20):
            cache.set(f"key {number}", number)
    eventually(lambda: len(server.worker_pids) == 2)
    assert not set(victims) & set(server.worker_pids)


def test_workers_of_a_killed_parent_leave_and_the_next_server_adopts(
    server: Server, make_server: StartServer, eventually: Eventually
) -> None:
    with server.connect() as cache:
        cache.set("a", 1)
    workers = server.worker_pids
    server.process.kill()
    server.process.wait()
    eventually(lambda: not set(workers) & set(processes(server.names)))
    again = make_server(names=server.names)
    eventually(lambda: "1 items kept from before" in again.log)
    with again.connect() as cache:
        assert cache.get("a") == 1


def test_the_next_server_waits_for_a_killed_ones_workers(
    server: Server, make_server: StartServer
) -> None:
    straggler = server.worker_pids[0]
    os.kill(straggler, signal.SIGSTOP)  # it cannot leave for a while
    server.process.kill()
    server.process.wait()
    successor = make_server(names=server.names, wait=False)
    time.sleep(1)
    assert successor.alive
    assert "ready" not in successor.log
    os.kill(straggler, signal.SIGCONT)
    successor.wait_ready()


def test_a_straggler_that_does_not_leave_is_named(server: Server) -> None:
    straggler = server.worker_pids[0]
    os.kill(straggler, signal.SIGSTOP)
    server.process.kill()
    server.process.wait()
    refused = kvserve("serve", "--name", server.name)
    os.kill(straggler, signal.SIGKILL)
    assert refused.returncode == 3
    assert f"fuser -k {server.names.pid_file}" in refused.stderr.decode()


@pytest.mark.parametrize("milliseconds", [60, 80, 100, 110, 120, 130, 140, 160, 200])
def test_a_server_killed_while_it_starts_is_no_hindrance(
    make_server: StartServer, milliseconds: int
) -> None:
    killed = make_server(wait=False)
    time.sleep(milliseconds / 1000)
    killed.process.kill()
    killed.process.wait()
    with make_server(names=killed.names).connect() as cache:
        cache.set("a", 1)


SERVE_WITH_BAD_WORKERS = """
import sys
from kvserve.config import Config
from kvserve.parent import child
from kvserve.parent.parent import serve

def run(names, index, store_url, control, ready):
    print("<4>I am worker", index, file=sys.stderr)
    if sys.argv[2] == "crash":
        raise RuntimeError("by design")
    return int(sys.argv[2])

child.run = run
sys.exit(serve(Config(name=sys.argv[1], memory=2**24, workers=1, queue_depth=4)))
"""


@pytest.mark.parametrize(
    ("fate", "verdict", "deaths"),
    [
        ("3", "left with exit code 3 (cannot boot)", 1),
        ("crash", "left with exit code 5 (crashed)", 3),
        ("0", "left with exit code 0 (done)", 3),
    ],
)
def test_a_server_whose_workers_never_serve_stops(
    names: Names, fate: str, verdict: str, deaths: int
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SERVE_WITH_BAD_WORKERS, names.name, fate],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.count(verdict) == deaths
    assert ended.stderr.count(": I am worker 0") == deaths  # no word of the dead is lost
    assert ended.stderr.count("RuntimeError: by design") == (deaths if fate == "crash" else 0)
    assert "so the server stops" in ended.stderr
    assert leftovers(names) == []


def test_a_name_that_vanishes_ends_the_server_loudly(
    server: Server, eventually: Eventually
) -> None:
    memory_path(server.names.table).unlink()
    eventually(lambda: not server.alive)
    assert server.process.returncode == 1
    assert "was removed by another process" in server.log
    assert "RemoveIPC" in server.log
    assert leftovers(server.names) == []


def test_a_server_whose_name_was_taken_over_leaves_its_successor_alone(
    server: Server, tmp_path: Path, eventually: Eventually
) -> None:
    memory_path(server.names.table).unlink()
    elsewhere = ["--name", server.name, "--workers", "1", "--memory", "16MiB"]
    command = [sys.executable, "-m", "kvserve", "serve", *elsewhere, "--queue-depth", "4"]
    environment = os.environ | {"KVSERVE_RUNTIME_DIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as successor:
        assert successor.stderr is not None
        while b"ready: " not in successor.stderr.readline():
            assert successor.poll() is None
        eventually(lambda: not server.alive)
        set_it = kvserve("set", "--name", server.name, "a", "1", KVSERVE_RUNTIME_DIR=str(tmp_path))
        successor.terminate()
    assert set_it.returncode == 0, set_it.stderr.decode()
    assert successor.returncode == 0


def test_usr1_logs_the_statistics(server: Server, eventually: Eventually) -> None:
    with server.connect() as cache:
        cache.set_many({"a": 1, "b": 2})
        cache.get("a")
        cache.get("c")
    server.process.send_signal(signal.SIGUSR1)
    eventually(lambda: "statistics: " in server.log)
    words = server.log.split("statistics: ")[1].split()
    counts = dict(word.split("=") for word in words)
    assert counts["workers"] == "2"
    assert (counts["items"], counts["sets"]) == ("2", "2")
    assert (counts["hits"], counts["misses"]) == ("1", "1")


def test_hup_reloads_the_file(
    make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    file = tmp_path / "kvserve.toml"
    file.write_text('log_level = "warning"\n')
    server = make_server("--config", str(file))

    file.write_text('log_level = "info"\nitem_size = 100\n')
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "item_size changed in the file; it needs a restart" in server.log)
    assert "settings version 2: log_level: warning -> info" in server.log
    assert "ready: " not in server.log  # it was filtered, however late it came

    file.write_text("nonsense")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "reload: nothing changed: " in server.log)
    with server.connect() as cache:
        cache.ping()


@pytest.fixture
def daemon(names: Names) -> tuple[str, ...]:
    """The command of a small server in the background; ended by `kvserve clean` after a kill."""
    flags = ("--name", names.name, "--workers", "1", "--memory", "16MiB", "--queue-depth", "4")
    return ("serve", "--daemon", *flags)


def test_a_daemon_is_ready_when_its_launcher_returns(
    names: Names, daemon: tuple[str, ...], eventually: Eventually
) -> None:
    launched = kvserve(*daemon)
    assert answers(launched, 0, b"")
    pid = holder(names)
    assert pid is not None
    try:
        assert os.getsid(pid) != os.getsid(0)
        assert kvserve("ping", "--name", names.name).returncode == 0
        refused = kvserve(*daemon)
        assert refused.returncode == 3
        assert f"is already served by pid {pid}" in refused.stderr.decode()
        assert "ready: " in names.log_file.read_text()
        old_log = names.log_file.with_suffix(".1")
        names.log_file.rename(old_log)  # as logrotate does
        os.kill(pid, signal.SIGHUP)
        eventually(names.log_file.exists)
        old_log.unlink()
    finally:
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: pid not in processes(names))
    assert ": stopped" in names.log_file.read_text()
    assert str(names.log_file) in kvserve("clean", "--name", names.name).stdout.decode()
    assert not names.runtime_directory.exists()


def test_a_daemon_that_cannot_start_says_so(daemon: tuple[str, ...]) -> None:
    failed = kvserve(*daemon, "--memory", "1TiB")
    assert failed.returncode == 3
    assert "the table needs 1 TiB" in failed.stderr.decode()


def test_a_client_lives_through_a_restart(server: Server, make_server: StartServer) -> None:
    with server.connect() as cache:
        cache.set("a", 1)
        server.stop()
        with pytest.raises(ServerError):
            cache.set("b", 2)
        make_server("--fresh", names=server.names)
        cache.set("b", 3)
        assert cache.get("b") == 3
        assert cache.get("a") is None
