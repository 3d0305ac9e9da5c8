"""Another user, and what somebody put in place beforehand: refused, never followed or written."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgpack
import posix_ipc
import pytest
from conftest import Eventually
from support.servers import Server, StartServer

import kvserve
from kvserve.names import Names
from kvserve.protocol import commands
from kvserve.protocol.messages import PROTOCOL_VERSION
from kvserve.transport.mqueue import SendingQueue

STRANGER = 65_534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")

# Attacks of another user; each must fail. It imports nothing of ours that checks on our side.
ATTACK = """
import os, sys
import posix_ipc
sys.path[:0] = sys.argv[2].split(os.pathsep)
name, won = sys.argv[1], []
def attack(what, try_it):
    try:
        try_it()
        won.append(what)
    except (OSError, posix_ipc.Error):
        pass
def open_memory(part, **options):
    posix_ipc.SharedMemory(f"/kvserve.{name}.{part}", **options).close_fd()
directory = sys.argv[3]
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
attack("read the table", lambda: open_memory("table", read_only=True))
attack("write the table", lambda: open_memory("table"))
attack("hold the lease", lambda: open(f"/dev/shm/kvserve.{name}.lease").close())
attack("read the hints", lambda: open_memory("hints", read_only=True))
attack("write the hints", lambda: open_memory("hints"))
attack("read the settings", lambda: open_memory("settings", read_only=True))
attack("write the settings", lambda: open_memory("settings"))
attack("send", lambda: posix_ipc.MessageQueue(f"/kvserve.{name}.worker.0", read=False))
attack("receive", lambda: posix_ipc.MessageQueue(f"/kvserve.{name}.worker.0", write=False))
attack("post", lambda: posix_ipc.Semaphore(f"/kvserve.{name}.lock.0"))
attack("unlink the table", lambda: posix_ipc.unlink_shared_memory(f"/kvserve.{name}.table"))
attack("unlink a queue", lambda: posix_ipc.unlink_message_queue(f"/kvserve.{name}.worker.0"))
attack("unlink a semaphore", lambda: posix_ipc.unlink_semaphore(f"/kvserve.{name}.lock.0"))
attack("list the directory", lambda: os.listdir(directory))
attack("read the manifest", lambda: open(directory + "/manifest.json").close())
attack("hold the pid file", lambda: open(directory + "/pid").close())
attack("make a FIFO", lambda: os.mkfifo(directory + "/clients/0123456789abcdef.reply"))
print(*won, sep=", ", end="")
"""


def test_another_user_can_do_nothing(server: Server) -> None:
    path = os.pathsep.join(sys.path)
    directory = str(server.names.runtime_directory)
    ended = subprocess.run(
        [sys.executable, "-c", ATTACK, server.name, path, directory],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == ""
    with server.connect() as cache:
        cache.set("key", 1)
        assert cache.get("key") == 1


def as_stranger(work: Callable[[], None]) -> int:
    """Runs something as another user in a fork; 0 if it succeeded."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            work()
            status = 0
        except kvserve.KvserveError as error:
            status = 2 if isinstance(error, kvserve.ServerError) else 3
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_another_users_client_gets_a_named_error(server: Server) -> None:
    assert as_stranger(lambda: kvserve.connect(server.name, timeout=20).close()) == 2


def make_memory(name: str) -> None:
    memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=4096, mode=0o666)
    memory.close_fd()


def make_symlink(name: str) -> None:
    Path(f"/dev/shm{name}").symlink_to("/etc/hostname")


def make_directory(name: str) -> None:
    Path(f"/dev/shm{name}").mkdir()


def make_fifo(name: str) -> None:
    os.mkfifo(f"/dev/shm{name}")


def remove_anything(name: str) -> None:
    path = Path(f"/dev/shm{name}")
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("part", ["table", "hints"])
@pytest.mark.parametrize("make", [make_memory, make_symlink, make_directory, make_fifo])
def test_what_a_stranger_put_in_place_is_refused(
    make_server: StartServer, names: Names, part: str, make: Callable[[str], None]
) -> None:
    name = f"/kvserve.{names.name}.{part}"
    assert as_stranger(lambda: make(name)) == 0
    hostname = Path("/etc/hostname").read_bytes()
    try:
        server = make_server(names=names, wait=False)
        assert server.process.wait(30) == 3
        assert "Traceback" not in server.log
        assert "--name" in server.log or "remove it" in server.log
        assert Path("/etc/hostname").read_bytes() == hostname
    finally:
        remove_anything(name)


def hello(client_id: int) -> bytes:
    """The frame with which a client of this id opens a session."""
    deadline_ms = int(time.monotonic() * 1000) + 10_000
    arguments = [PROTOCOL_VERSION, os.getpid()]
    frame: bytes = msgpack.packb(
        [PROTOCOL_VERSION, client_id, 1, commands.HELLO.code, deadline_ms, arguments]
    )
    return frame


@pytest.mark.parametrize("kind", ["symlink", "file", "directory", "device", "foreign fifo", "none"])
def test_a_worker_opens_nothing_but_its_clients_fifos(
    make_server: StartServer, tmp_path: Path, eventually: Eventually, kind: str
) -> None:
    server = make_server("--workers", "1")
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    client_id = 0x1234
    for path in (server.names.request_fifo(client_id), server.names.reply_fifo(client_id)):
        if kind == "symlink":
            path.symlink_to(victim)
        elif kind == "file":
            path.write_text("untouched")
        elif kind == "directory":
            path.mkdir()
        elif kind == "device":
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        elif kind == "foreign fifo":
            os.mkfifo(path)
            os.chown(path, STRANGER, STRANGER)
    queue = SendingQueue(server.names.worker_queue(0), os.geteuid())
    assert queue.offer(hello(client_id), 2)
    queue.close()
    with server.connect() as cache:
        eventually(lambda: cache.stats()["workers"][0]["sessions"] == 1)  # ours
        assert cache.stats()["workers"][0]["unknown_sessions"] == 1
        assert cache.incr("counter") == 1
    assert victim.read_text() == "untouched"
    for path in (server.names.request_fifo(client_id), server.names.reply_fifo(client_id)):
        if kind == "file":
            assert path.read_text() == "untouched"
        if kind == "directory":
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
