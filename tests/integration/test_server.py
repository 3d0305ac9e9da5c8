"""How real servers start, and when they refuse to."""

from __future__ import annotations

import grp
import json
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import posix_ipc
import pytest
from support.commands import kvserve
from support.leftovers import leftovers

from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.parent.housekeeping import memory_path, semaphore_path
from kvserve.runtime import holder

if TYPE_CHECKING:
    from conftest import Eventually, NewNames
    from support.servers import Server, StartServer


def pipes(pid: int) -> set[str]:
    """The pipes that a process has open."""
    targets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # a client's FIFO, which was just closed
            targets.add(str(descriptor.readlink()))
    return {target for target in targets if target.startswith("pipe:")}


def test_a_start_says_that_it_is_ready(server: Server, eventually: Eventually) -> None:
    eventually(lambda: "ready: " in server.log)
    line = next(line for line in server.log.splitlines() if "ready: " in line)
    assert f"ready: instance {server.name!r}, pid {server.pid}, 2 workers, " in line
    assert line.endswith(", 0 items kept from before")


def test_the_manifest_tells_what_there_is(server: Server) -> None:
    manifest = Manifest.read(server.names)
    assert manifest.pid == server.pid == holder(server.names)
    assert manifest.workers == len(server.worker_pids) == 2
    names = server.names
    assert {names.table, names.hints, names.settings} <= set(manifest.memory_objects)
    for name, size_bytes in manifest.memory_objects.items():
        assert memory_path(name).stat().st_size == size_bytes
    for name in manifest.semaphores:
        posix_ipc.Semaphore(name).close()
    for name in manifest.queues:
        queue = posix_ipc.MessageQueue(name)
        assert queue.max_messages == manifest.queue_depth
        assert queue.max_message_size == manifest.queue_message_bytes
        queue.close()


def test_nobody_else_gets_in(server: Server) -> None:
    names = server.names
    directories = [names.runtime_directory, names.clients_directory]
    files = [names.lease_file, names.manifest, names.pid_file]
    objects = [memory_path(name) for name in (names.table, names.hints, names.settings)]
    for path in (*directories, *files, *objects):
        status = path.stat()
        assert status.st_uid == os.geteuid()
        # What is in the runtime directory is behind its mode; the objects have only their own.
        assert not status.st_mode & 0o007 or path in files
    assert stat.S_IMODE(names.runtime_directory.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in objects)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a group to give")
def test_a_group_gets_what_clients_need_and_no_more(make_server: StartServer) -> None:
    names = make_server("--group", "daemon").names

    def mode(path: Path) -> int:
        status = path.stat()
        assert status.st_gid == grp.getgrnam("daemon").gr_gid or not status.st_mode & 0o070
        return stat.S_IMODE(status.st_mode)

    assert mode(names.runtime_directory) == 0o750
    assert mode(names.clients_directory) == 0o3770
    assert mode(names.manifest) == mode(names.pid_file) == 0o640
    assert mode(names.lease_file) == 0o600
    assert mode(memory_path(names.settings)) == 0o640
    assert mode(memory_path(names.table)) == 0o640
    assert mode(memory_path(names.hints)) == 0o640
    assert mode(semaphore_path(names.shard_semaphore(0))) == 0o600
    queue = posix_ipc.MessageQueue(names.worker_queue(0))
    assert stat.S_IMODE(os.fstat(queue.mqd).st_mode) == 0o620
    queue.close()


def test_workers_have_no_pipe_of_each_other(server: Server) -> None:
    one, other = server.worker_pids
    assert not pipes(one) & pipes(other)
    assert not pipes(server.pid) & pipes(one) & pipes(other)


def test_the_log_can_be_json(make_server: StartServer, eventually: Eventually) -> None:
    server = make_server("--log-format", "json")
    eventually(lambda: "ready: " in server.log)
    events = [json.loads(line) for line in server.log.splitlines()]
    ready = next(event for event in events if event["text"].startswith("ready: "))
    assert (ready["source"], ready["pid"], ready["level"]) == ("parent", server.pid, "info")


def test_a_log_that_nobody_reads_holds_nobody_up(new_names: NewNames) -> None:
    names = new_names()
    command = [sys.executable, "-m", "kvserve", "serve", "--name", names.name]
    flags = ["--memory", "16MiB", "--workers", "1", "--queue-depth", "4"]
    with subprocess.Popen([*command, *flags], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        ready = False
        while not ready:
            ready = b"ready: " in process.stderr.readline()
        for _ in range(3000):  # far more lines than a pipe holds
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.0002)
        import kvserve as package

        with package.connect(names.name) as cache:
            cache.set("a", 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    kvserve("clean", "--name", names.name)


def test_a_second_server_of_a_name_is_refused(server: Server) -> None:
    refused = kvserve("serve", "--name", server.name)
    assert refused.returncode == 3
    assert refused.stderr.decode() == (
        f"kvserve: instance {server.name!r} is already served by pid {server.pid}; "
        f"choose another --name, or stop it: kill {server.pid}\n"
    )
    with server.connect() as cache:
        cache.set("a", 1)
        assert cache.get("a") == 1


def test_a_second_server_from_another_directory_is_refused_and_touches_nothing(
    server: Server, tmp_path: Path
) -> None:
    refused = kvserve("serve", "--name", server.name, KVSERVE_RUNTIME_DIR=str(tmp_path))
    assert refused.returncode == 3
    assert f"is already served by pid {server.pid} from another" in refused.stderr.decode()
    cleaning = kvserve("clean", "--name", server.name, KVSERVE_RUNTIME_DIR=str(tmp_path))
    assert cleaning.returncode == 3
    with server.connect() as cache:  # a new client needs the queues and the semaphores by name
        cache.set("a", 1)
        cache.flush()


def test_too_much_memory_is_refused_with_its_mending(names: Names) -> None:
    refused = kvserve("serve", "--name", names.name, "--memory", "1TiB")
    assert refused.returncode == 3
    assert "the table needs 1 TiB; fix: mount -o remount,size=" in refused.stderr.decode()
    assert leftovers(names) == []
    assert not names.runtime_directory.exists()


def test_an_unknown_group_is_refused(names: Names) -> None:
    refused = kvserve("serve", "--name", names.name, "--group", "no-such-group")
    assert refused.returncode == 2
    assert "groupadd no-such-group" in refused.stderr.decode()


def test_cleaning_a_served_instance_is_refused(server: Server) -> None:
    refused = kvserve("clean", "--name", server.name)
    assert refused.returncode == 3
    assert (
        f"is served by pid {server.pid}; stop it first: kill {server.pid}"
        in refused.stderr.decode()
    )
    with server.connect() as cache:
        cache.ping()
