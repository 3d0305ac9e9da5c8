"""How real servers stop, what they leave, what the next one makes of it, and `kvserve clean`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.commands import answers, kvserve
from support.leftovers import leftovers, processes
from support.servers import stopped

from kvserve.errors import ServerUnavailable
from kvserve.names import Names
from kvserve.parent.housekeeping import memory_path

if TYPE_CHECKING:
    from conftest import Eventually
    from support.servers import Server, StartServer


def kept_only(names: Names) -> list[str]:
    """What `leftovers` finds of an instance that was stopped and kept its table."""
    parts = [memory_path(names.hints), names.lease_file, memory_path(names.table)]
    return [str(path) for path in parts]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_leaves_the_kept_table_only(server: Server, number: signal.Signals) -> None:
    with server.connect() as cache:
        cache.set("a", 1)
    assert server.stop(number) == 0
    assert sorted(leftovers(server.names)) == kept_only(server.names)
    left = [path.name for path in server.names.runtime_directory.rglob("*")]
    assert left == ["clients"]
    assert server.log.endswith(": stopped\n")


def test_no_keep_leaves_nothing(make_server: StartServer) -> None:
    server = make_server("--no-keep")
    assert server.stop() == 0
    assert leftovers(server.names) == []


def test_a_second_signal_does_not_wait_for_a_stopped_worker(
    server: Server, eventually: Eventually
) -> None:
    stopped = server.worker_pids[0]
    os.kill(stopped, signal.SIGSTOP)

    def told_to_hurry() -> bool:
        server.process.send_signal(signal.SIGTERM)
        return "stopping at once" in server.log

    eventually(told_to_hurry)
    assert server.stop() == 0
    assert "stopping: workers finish what they received" in server.log
    assert f"(pid {stopped}) did not leave in time and is killed" in server.log
    assert sorted(leftovers(server.names)) == kept_only(server.names)


def test_a_signal_to_the_whole_group_is_one_graceful_stop(names: Names) -> None:
    flags = ["--name", names.name, "--workers", "1", "--memory", "16MiB", "--queue-depth", "4"]
    with subprocess.Popen(
        [sys.executable, "-m", "kvserve", "serve", *flags, "--no-keep"],
        stderr=subprocess.PIPE,
        process_group=0,
    ) as process:
        assert process.stderr is not None
        while b"ready: " not in process.stderr.readline():
            assert process.poll() is None
        with stopped(process.pid):  # so that both are there when it goes on, though it is late
            os.killpg(process.pid, signal.SIGTERM)
            process.send_signal(signal.SIGINT)  # another TERM would be the same one
        log = process.stderr.read()
        assert process.wait() == 0
    assert b"stopping: workers finish" in log
    assert b"at once" not in log
    assert b" error " not in log


def test_what_was_acknowledged_before_a_stop_is_there_after_it(
    server: Server, make_server: StartServer, eventually: Eventually
) -> None:
    with server.connect() as cache:
        for number in range(100):
            cache.set(f"key {number}", number)
    server.stop()
    again = make_server(names=server.names)
    eventually(lambda: "100 items kept from before" in again.log)
    with again.connect() as cache:
        assert cache.get_many([f"key {number}" for number in range(100)]) == {
            f"key {number}": number for number in range(100)
        }


def test_fresh_drops_the_kept_table(server: Server, make_server: StartServer) -> None:
    with server.connect() as cache:
        cache.set("a", 1)
    server.stop()
    again = make_server("--fresh", names=server.names)
    assert "as --fresh demands" in again.log
    with again.connect() as cache:
        assert cache.get("a") is None


def test_a_table_of_other_settings_is_replaced_and_the_log_says_why(
    server: Server, make_server: StartServer
) -> None:
    server.stop()
    again = make_server("--memory", "24MiB", names=server.names)
    assert "replaced by an empty one: it was made for memory 16 MiB, not 24 MiB" in again.log


@pytest.mark.parametrize("part", ["table", "hints", "lease"])
def test_half_a_table_is_replaced(server: Server, make_server: StartServer, part: str) -> None:
    server.stop()
    (server.names.lease_file.parent / f"kvserve.{server.name}.{part}").unlink()
    with make_server(names=server.names).connect() as cache:
        cache.set("a", 1)


def test_a_damaged_table_is_replaced(server: Server, make_server: StartServer) -> None:
    with server.connect() as cache:
        cache.set_many({f"key {number}": "x" * 100 for number in range(1000)})
    server.stop()
    with memory_path(server.names.table).open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 16)
    again = make_server(names=server.names)
    assert "the kept table is replaced by an empty one" in again.log
    with again.connect() as cache:
        assert cache.get("key 1") is None


def test_clean_removes_what_a_stopped_server_kept(server: Server) -> None:
    server.stop()
    cleaned = kvserve("clean", "--name", server.name)
    assert cleaned.returncode == 0
    assert set(cleaned.stdout.decode().split()) == {
        server.names.table,
        server.names.hints,
        str(server.names.lease_file),
        str(server.names.runtime_directory),
    }
    assert leftovers(server.names) == []


@pytest.mark.parametrize("lost", [(), ("manifest.json",), ("manifest.json", "pid")])
def test_clean_removes_what_a_killed_server_left(
    server: Server, lost: tuple[str, ...], eventually: Eventually
) -> None:
    cache = server.connect()
    cache.ping()
    server.process.kill()
    server.process.wait()
    eventually(lambda: not processes(server.names))
    for name in lost:
        (server.names.runtime_directory / name).unlink()
    cleaned = kvserve("clean", "--name", server.name)
    assert cleaned.returncode == 0, cleaned.stderr.decode()
    removed = set(cleaned.stdout.decode().split())
    assert {server.names.worker_queue(0), server.names.worker_queue(1)} <= removed
    assert {server.names.table, server.names.shard_semaphore(0)} <= removed
    assert leftovers(server.names) == []
    assert not server.names.runtime_directory.exists()
    with pytest.raises(ServerUnavailable):
        cache.set("a", 1)
    cache.close()


def test_cleaning_nothing_is_no_failure(names: Names) -> None:
    cleaned = kvserve("clean", "--name", names.name)
    assert answers(cleaned, 0, b"")
    assert not names.runtime_directory.exists()
