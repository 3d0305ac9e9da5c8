"""Real servers: how they start, refuse, stop, survive, and what they leave."""

from __future__ import annotations

import grp
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import posix_ipc
import pytest
from leftovers import leftovers, processes

from kvserve.errors import ServerError, ServerUnavailable
from kvserve.names import Names
from kvserve.parent.housekeeping import memory_path, semaphore_path
from kvserve.runtime import Manifest, holder

if TYPE_CHECKING:
    from conftest import Eventually, NewNames
    from servers import Server, StartServer


def kept_only(names: Names) -> list[str]:
    """What `leftovers` finds of an instance that was stopped and kept its table."""
    return [str(memory_path(names.hints)), str(memory_path(names.table))]


def kvserve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "kvserve", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def pipes(pid: int) -> set[str]:
    """The pipes that a process has open."""
    return {
        target
        for descriptor in Path(f"/proc/{pid}/fd").iterdir()
        if (target := str(descriptor.readlink())).startswith("pipe:")
    }


# Start.


def test_a_start_says_that_it_is_ready(server: Server, eventually: Eventually) -> None:
    eventually(lambda: "ready: " in server.log)
    line = next(line for line in server.log.splitlines() if "ready: " in line)
    assert f"ready: instance {server.name!r}, pid {server.pid}, 2 workers, " in line
    assert line.endswith(", 0 items kept from before")


def test_the_manifest_tells_what_there_is(server: Server) -> None:
    manifest = Manifest.read(server.names)
    assert manifest.pid == server.pid == holder(server.names)
    assert manifest.workers == len(server.worker_pids) == 2
    assert set(manifest.memory_objects) == {server.names.table, server.names.hints}
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
    objects = [memory_path(names.table), memory_path(names.hints)]
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
    assert mode(memory_path(names.table)) == 0o640
    assert mode(memory_path(names.hints)) == 0o660
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


# Refusals.


def test_a_second_server_of_a_name_is_refused(server: Server) -> None:
    refused = kvserve("serve", "--name", server.name)
    assert refused.returncode == 3
    assert refused.stderr == (
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
    assert "is already served from another runtime directory" in refused.stderr
    cleaning = kvserve("clean", "--name", server.name, KVSERVE_RUNTIME_DIR=str(tmp_path))
    assert cleaning.returncode == 3
    with server.connect() as cache:  # a new client needs the queues and the semaphores by name
        cache.set("a", 1)
        cache.flush()


def test_too_much_memory_is_refused_with_its_mending(names: Names) -> None:
    refused = kvserve("serve", "--name", names.name, "--memory", "1TiB")
    assert refused.returncode == 3
    assert "the table needs 1 TiB; mend: mount -o remount,size=" in refused.stderr
    assert leftovers(names) == []
    assert not names.runtime_directory.exists()


def test_an_unknown_group_is_refused(names: Names) -> None:
    refused = kvserve("serve", "--name", names.name, "--group", "no-such-group")
    assert refused.returncode == 2
    assert "groupadd no-such-group" in refused.stderr


def test_cleaning_a_served_instance_is_refused(server: Server) -> None:
    refused = kvserve("clean", "--name", server.name)
    assert refused.returncode == 3
    assert f"is served by pid {server.pid}; stop it first: kill {server.pid}" in refused.stderr
    with server.connect() as cache:
        cache.ping()


# Stop.


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
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: "stopping: " in server.log)
    server.process.send_signal(signal.SIGTERM)
    assert server.stop() == 0
    assert "stopping at once" in server.log
    assert f"(pid {stopped}) did not leave in time and is killed" in server.log
    assert sorted(leftovers(server.names)) == kept_only(server.names)


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


# The table: kept, dropped, replaced.


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


@pytest.mark.parametrize("part", ["table", "hints"])
def test_half_a_table_is_replaced(server: Server, make_server: StartServer, part: str) -> None:
    server.stop()
    memory_path(getattr(server.names, part)).unlink()
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


# Deaths.


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
    server.process.kill()  # and no wait: its workers may still be there
    with make_server(names=server.names).connect() as cache:
        cache.ping()


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

def run(names, config, index, control, ready):
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


# While it serves.


def test_a_name_that_vanishes_ends_the_server_loudly(
    server: Server, eventually: Eventually
) -> None:
    memory_path(server.names.table).unlink()
    eventually(lambda: not server.alive)
    assert server.process.returncode == 1
    assert "was removed by somebody else" in server.log
    assert "RemoveIPC" in server.log
    assert leftovers(server.names) == []


def test_a_server_whose_name_was_taken_over_leaves_its_successor_alone(
    server: Server, tmp_path: Path, eventually: Eventually
) -> None:
    memory_path(server.names.table).unlink()
    elsewhere = ["--name", server.name, "--workers", "1", "--memory", "16MiB"]
    command = [sys.executable, "-m", "kvserve", "serve", *elsewhere, "--queue-depth", "4"]
    environment = os.environ | {"KVSERVE_RUNTIME_DIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as successor:
        eventually(lambda: not server.alive)
        set_it = kvserve("set", "--name", server.name, "a", "1", KVSERVE_RUNTIME_DIR=str(tmp_path))
        successor.terminate()
    assert set_it.returncode == 0, set_it.stderr
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
    assert "ready" not in server.log

    file.write_text('log_level = "info"\nitem_size = 100\n')
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "item_size changed in the file; it needs a restart" in server.log)
    assert "reload: log_level is info now" in server.log

    file.write_text("nonsense")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "reload: nothing changed: " in server.log)
    with server.connect() as cache:
        cache.ping()


# In the background.


@pytest.fixture
def daemon(names: Names) -> tuple[str, ...]:
    """The command of a small server in the background; ended by `kvserve clean` after a kill."""
    flags = ("--name", names.name, "--workers", "1", "--memory", "16MiB", "--queue-depth", "4")
    return ("serve", "--daemon", *flags)


def test_a_daemon_is_ready_when_its_launcher_returns(
    names: Names, daemon: tuple[str, ...], eventually: Eventually
) -> None:
    launched = kvserve(*daemon)
    assert (launched.returncode, launched.stdout, launched.stderr) == (0, "", "")
    pid = holder(names)
    assert pid is not None
    try:
        assert os.getsid(pid) != os.getsid(0)
        assert kvserve("ping", "--name", names.name).returncode == 0
        refused = kvserve(*daemon)
        assert refused.returncode == 3
        assert f"is already served by pid {pid}" in refused.stderr
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
    assert str(names.log_file) in kvserve("clean", "--name", names.name).stdout
    assert not names.runtime_directory.exists()


def test_a_daemon_that_cannot_start_says_so(daemon: tuple[str, ...]) -> None:
    failed = kvserve(*daemon, "--memory", "1TiB")
    assert failed.returncode == 3
    assert "the table needs 1 TiB" in failed.stderr


# Clean.


def test_clean_removes_what_a_stopped_server_kept(server: Server) -> None:
    server.stop()
    cleaned = kvserve("clean", "--name", server.name)
    assert cleaned.returncode == 0
    assert set(cleaned.stdout.split()) == {
        server.names.table,
        server.names.hints,
        str(server.names.runtime_directory),
    }
    assert leftovers(server.names) == []


@pytest.mark.parametrize("lost", [(), ("manifest.json",), ("manifest.json", "pid", "lease")])
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
    assert cleaned.returncode == 0, cleaned.stderr
    removed = set(cleaned.stdout.split())
    assert {server.names.worker_queue(0), server.names.worker_queue(1)} <= removed
    assert {server.names.table, server.names.shard_semaphore(0)} <= removed
    assert leftovers(server.names) == []
    assert not server.names.runtime_directory.exists()
    with pytest.raises(ServerUnavailable):
        cache.set("a", 1)
    cache.close()


def test_cleaning_nothing_is_no_failure(names: Names) -> None:
    cleaned = kvserve("clean", "--name", names.name)
    assert (cleaned.returncode, cleaned.stdout) == (0, "")
    assert not names.runtime_directory.exists()


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
