"""Who looks from elsewhere: another runtime directory, another pid namespace, another user."""

from __future__ import annotations

import asyncio
import grp
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.commands import COMMAND, kvserve
from support.servers import Server, StartServer

import kvserve as package
from kvserve import runtime, whereabouts
from kvserve.errors import ServerUnavailable
from kvserve.names import Names, instance
from kvserve.parent.finding import how_to_end
from kvserve.parent.housekeeping import memory_path
from kvserve.runtime import not_served

Eventually = Callable[[Callable[[], object]], None]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
LOOKS: list[tuple[str, ...]] = [
    ("get", "k"),
    ("get", "k", "--json"),
    ("set", "k", "v"),
    ("keys",),
    ("watch",),
    ("stats",),
    ("config", "get", "spin"),
    ("config", "set", "spin", "1"),
    ("verify",),
    ("serve", "--memory", "16MiB"),
    ("serve", "--memory", "16MiB", "--daemon"),
    ("clean",),
]


@pytest.fixture
def other(tmp_path: Path) -> str:
    """Another runtime directory than the server's."""
    return str(tmp_path / "other")


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_from_another_directory_the_servers_is_named(
    shared: Server, other: str, words: tuple[str, ...]
) -> None:
    done = kvserve(*words, "--name", shared.name, KVSERVE_RUNTIME_DIR=other)
    assert (done.returncode, done.stdout) == (3, b"")
    text = done.stderr.decode()
    assert text.count("\n") == 1
    assert f"served by pid {shared.pid} from another runtime directory" in text
    assert str(shared.names.runtime_directory) in text
    assert f"export KVSERVE_RUNTIME_DIR={shared.names.runtime_directory.parent}\n" in text
    assert "start one" not in text
    assert not Path(other).exists() or "--daemon" in words  # that leaves a log


def test_a_client_and_the_doctor_name_the_servers_directory(
    shared: Server, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = kvserve("doctor", "--name", shared.name, KVSERVE_RUNTIME_DIR=other)
    line = next(line for line in done.stdout.decode().splitlines() if "\tserver\t" in line)
    assert f"by pid {shared.pid} from another runtime directory" in line
    assert f"export KVSERVE_RUNTIME_DIR={shared.names.runtime_directory.parent}" in line
    monkeypatch.setenv("KVSERVE_RUNTIME_DIR", other)
    told = f"by pid {shared.pid} from another runtime directory, {shared.names.runtime_directory}"
    with pytest.raises(ServerUnavailable, match=told):
        package.connect(shared.name)
    with pytest.raises(ServerUnavailable, match=told):
        asyncio.run(package.connect_async(shared.name))
    with pytest.raises(ServerUnavailable, match=told):
        package.connect(shared.name, write="direct")


def test_what_it_says_to_do_helps(shared: Server, other: str) -> None:
    done = kvserve("set", "k", "v", "--name", shared.name, KVSERVE_RUNTIME_DIR=other)
    command = done.stderr.decode().rpartition("; ")[2]
    script = f"{command}{sys.executable} -m kvserve set k v --name {shared.name}"
    assert subprocess.run(["sh", "-c", script], check=False).returncode == 0


def test_who_is_gone_is_not_named(make_server: StartServer, other: str) -> None:
    for end in (Server.stop, Server.kill_everything):
        server = make_server()
        end(server)
        done = kvserve("get", "k", "--name", server.name, KVSERVE_RUNTIME_DIR=other)
        assert b"is running; start one: kvserve serve" in done.stderr


@needs_root
def test_what_another_user_wrote_is_not_believed(server: Server, tmp_path: Path) -> None:
    elsewhere = Names(server.name, tmp_path / server.name)
    page = memory_path(server.names.settings)
    assert whereabouts.elsewhere(elsewhere) is not None
    for uid, mode in ((12_345, 0o600), (12_345, 0o644), (0, 0o666), (0, 0o620)):
        os.chown(page, uid, 12_345)
        page.chmod(mode)
        assert whereabouts.elsewhere(elsewhere) is None
    os.chown(page, 0, 0)
    page.chmod(0o600)
    assert whereabouts.elsewhere(elsewhere) is not None
    whole = page.read_bytes()
    for junk in (bytes(8192), b"\xff" * 8192, b"", os.urandom(8192), whole[:64] + bytes(99)):
        page.write_bytes(junk)
        assert "is running; start one" in str(not_served(elsewhere))
    page.write_bytes(whole)
    table = memory_path(server.names.table)
    os.chown(table, 12_345, -1)
    page.unlink()
    assert "its memory is uid 12345's" in str(not_served(elsewhere))
    os.chown(table, 0, -1)
    server.stop(signal.SIGTERM)


@needs_root
def test_a_member_of_the_group_is_told_too(make_server: StartServer) -> None:
    group = grp.getgrgid(65_534).gr_name
    server = make_server("--group", group)
    program = (
        "import os, sys\n"
        "import kvserve.client.blocking.client\n"
        "from kvserve.cli import commands, data, main\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "main.main()\n"
    )
    words = [sys.executable, "-c", program, "get", "k", "--name", server.name]
    environment = os.environ | {"KVSERVE_RUNTIME_DIR": "/nobody/made/this"}
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert done.returncode == 3
    assert f"by pid {server.pid} from another runtime directory".encode() in done.stderr


def test_a_relative_directory_outlives_a_change_of_directory(
    make_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server()
    root = server.names.runtime_directory.parent
    monkeypatch.chdir(root.parent)
    for variable in ("KVSERVE_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, root.name)
        assert instance(server.name).runtime_directory.is_absolute()
    with server.connect() as cache:
        cache.set("k", 1)
        monkeypatch.chdir(tmp_path)
        server.stop()
        assert cache.get("k") == 1
        monkeypatch.setenv("KVSERVE_RUNTIME_DIR", str(root))
        make_server(names=server.names)
        cache.set("k", 2)  # opens everything anew
        assert cache.get("k") == 2


def test_a_relative_directory_of_no_directory(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'cd {gone} && rmdir {gone} && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "get", "k"],
        env=os.environ | {"KVSERVE_RUNTIME_DIR": "run"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"set KVSERVE_RUNTIME_DIR to an absolute path\n" in done.stderr
    assert done.stderr.count(b"\n") == 1


# --- Pid namespaces


def unshared(*command: str) -> list[str]:
    """A command in a pid namespace of its own, with a /proc of its own; it has pid 1 there."""
    return ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command]


def can_unshare() -> bool:
    done = subprocess.run(unshared("true"), capture_output=True, check=False)
    return done.returncode == 0


needs_namespaces = pytest.mark.skipif(
    shutil.which("unshare") is None or not can_unshare(),
    reason="pid namespaces need root and unshare(1)",
)


@pytest.fixture
def contained(names: Names, tmp_path: Path, eventually: Eventually) -> Iterator[tuple[Names, int]]:
    """A server with pid 1 in a namespace of its own; its names, and its pid here."""
    words = (*COMMAND, "serve", "--name", names.name, "--memory", "16MiB", "--workers", "1")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(unshared(*words), stdout=log, stderr=log)
    eventually(lambda: b"ready:" in (tmp_path / "log").read_bytes())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    yield names, int(children[0])
    os.kill(int(children[0]), signal.SIGTERM)
    process.wait()
    assert kvserve("clean", "--name", names.name).returncode == 0


@needs_namespaces
def test_a_server_in_a_namespace_below_is_named_by_its_pid_here(
    contained: tuple[Names, int], tmp_path: Path
) -> None:
    names, pid = contained
    assert names.pid_file.read_text() == "1\n"
    for words in (("serve", "--memory", "16MiB"), ("clean",)):
        done = kvserve(*words, "--name", names.name)
        assert done.returncode == 3
        assert re.search(rf"kill {pid}\b", done.stderr.decode())
    assert f"served by pid {pid}\n".encode() in kvserve("doctor", "--name", names.name).stdout
    elsewhere = {"KVSERVE_RUNTIME_DIR": str(tmp_path / "other")}
    for words in (("serve", "--memory", "16MiB"), ("get", "k")):
        done = kvserve(*words, "--name", names.name, **elsewhere)
        assert done.returncode == 3
        assert b"by pid 1 of another pid namespace" in done.stderr


@needs_namespaces
def test_from_another_namespace_no_process_is_named_that_is_another_one(server: Server) -> None:
    for words in (("serve", "--memory", "16MiB"), ("clean",)):
        command = unshared(*COMMAND, *words, "--name", server.name)
        done = subprocess.run(command, capture_output=True, check=False)
        text = done.stderr.decode()
        assert done.returncode == 3, text
        assert "of another pid namespace" in text
        assert "kill" not in text
        assert "fuser" not in text
        assert text.count("\n") == 1
    command = unshared(*COMMAND, "doctor", "--name", server.name)
    found = subprocess.run(command, capture_output=True, check=False).stdout
    assert b"of another pid namespace" in found
    with server.connect() as cache:
        cache.ping()


def test_no_command_kills_the_one_who_types_it() -> None:
    for pids in ([0], [0, 0], [0, 7], [7, 0, 9]):
        command = how_to_end(pids)
        assert "namespace" in command
        assert not re.search(r"kill\b.* 0\b", command)


def test_what_a_dead_server_left_is_named_by_its_pids(server: Server) -> None:
    stopped = server.worker_pids
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        server.process.kill()
        server.process.wait()
        done = kvserve("clean", "--name", server.name)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
    assert done.returncode == 3
    assert "a worker of it still runs" in done.stderr.decode()
    named = done.stderr.decode().rpartition(", pid ")[2].partition("; ")[0].split(", ")
    assert sorted(map(int, named)) == sorted(stopped)


def test_a_pid_that_came_round_is_not_taken_for_a_server(names: Names) -> None:
    """The lock is another process's than that of the pid in the file, which is one of ours."""
    runtime.prepare_directory(names, None)
    holding = runtime.PidFile.acquire(names)
    child = subprocess.Popen(["sleep", "60"])
    names.pid_file.write_text(f"{child.pid}\n")
    try:
        assert runtime.holder(names) == 0
    finally:
        child.kill()
        child.wait()
        holding.release()
        names.pid_file.unlink()
        runtime.remove_directory(names)
