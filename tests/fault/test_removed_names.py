"""Names of a server that somebody removes: made again where that is safe, a loud stop otherwise."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import posix_ipc
import pytest
from support.commands import answers, kvserve
from support.leftovers import processes
from support.oddities import ODDITIES, uproot
from support.servers import clean_up

from kvserve.names import Names
from kvserve.parent.housekeeping import memory_path, semaphore_path
from kvserve.runtime import holder

if TYPE_CHECKING:
    from conftest import Eventually
    from support.servers import Server, StartServer

MENDED: dict[str, Callable[[Names], object]] = {
    "the runtime directory": lambda names: shutil.rmtree(names.runtime_directory),
    "its files": lambda names: [uproot(path) for path in names.runtime_directory.iterdir()],
    "pid file": lambda names: names.pid_file.unlink(),
    "manifest": lambda names: names.manifest.unlink(),
    "clients directory": lambda names: shutil.rmtree(names.clients_directory),
    "all queues": lambda names: [
        posix_ipc.unlink_message_queue(names.worker_queue(worker)) for worker in range(2)
    ],
}


@pytest.mark.parametrize("what", MENDED)
def test_what_can_be_made_again_is(
    server: Server, eventually: Eventually, make_server: StartServer, what: str
) -> None:
    with server.connect() as connected:
        connected.set("a", 1)
        MENDED[what](server.names)
        eventually(lambda: "and is made again" in server.log or not server.alive)
        server.wait_ready()  # for those who come, all of it is there
        assert (server.names.runtime_directory.stat().st_mode & 0o777) == 0o700
        assert holder(server.names) == server.pid
        for number in range(20):  # and those who were there go on, with either worker
            connected.set(f"key {number}", number)
        refused = kvserve("serve", "--name", server.name)
        assert refused.returncode == 3
        assert f"is already served by pid {server.pid}" in refused.stderr.decode()
        assert connected.get("a") == 1
    assert server.stop() == 0
    again = make_server(names=server.names)
    eventually(lambda: "21 items kept from before" in again.log)


def test_a_parent_killed_after_its_pid_file_was_made_again(
    server: Server, make_server: StartServer, eventually: Eventually
) -> None:
    """Its workers hold the lock of the old one only, and a moment longer than it lives."""
    server.names.pid_file.unlink()
    eventually(server.names.pid_file.exists)
    straggler = server.worker_pids[0]
    os.kill(straggler, signal.SIGSTOP)
    server.process.kill()
    server.process.wait()
    successor = make_server(names=server.names, wait=False)
    eventually(lambda: holder(server.names) == successor.pid)
    os.kill(straggler, signal.SIGCONT)
    successor.wait_ready()


@pytest.mark.parametrize("oddity", ["full directory", "FIFO"])
def test_what_is_in_the_way_is_waited_for(
    server: Server, eventually: Eventually, oddity: str
) -> None:
    names = server.names
    shutil.rmtree(names.runtime_directory)
    ODDITIES[oddity](names.runtime_directory)
    eventually(lambda: "watching the names failed, and is tried again" in server.log)
    assert server.alive
    uproot(names.runtime_directory)
    eventually(lambda: "manifest.json was removed by another process" in server.log)
    server.wait_ready()


LOST: dict[str, Callable[[Names], object]] = {
    "lease file": lambda names: names.lease_file.unlink(),
    "semaphore": lambda names: semaphore_path(names.shard_semaphore(0)).unlink(),
    "feed": lambda names: memory_path(names.feed).unlink(),
}


@pytest.mark.parametrize("what", LOST)
def test_what_cannot_be_made_again_stops_the_server_and_keeps_the_table(
    server: Server, make_server: StartServer, eventually: Eventually, what: str
) -> None:
    with server.connect() as cache:
        cache.set("a", 1)
    LOST[what](server.names)
    eventually(lambda: not server.alive)
    assert server.process.returncode == 1
    assert "was removed by another process, so new clients cannot see" in server.log
    again = make_server(names=server.names)
    eventually(lambda: "1 items kept from before" in again.log)


def test_a_daemon_whose_directory_is_removed_has_its_log_again(
    names: Names, eventually: Eventually
) -> None:
    flags = ("--name", names.name, "--workers", "1", "--memory", "16MiB", "--queue-depth", "4")
    assert answers(kvserve("serve", "--daemon", *flags), 0, b"")
    pid = holder(names)
    assert pid is not None
    try:
        shutil.rmtree(names.runtime_directory)
        eventually(lambda: names.log_file.exists() and "made again" in names.log_file.read_text())
        assert kvserve("ping", "--name", names.name).returncode == 0
    finally:
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: pid not in processes(names))
        clean_up(names)
