"""Each system call of a respawn fails once, as on a machine that is full: the server serves on."""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.core_build import compiler, run

if TYPE_CHECKING:
    from conftest import Eventually
    from support.servers import Server, StartServer

# Which calls, how the system refuses them, and how many of them a respawn makes at least.
CALLS = [
    ("open", errno.ENFILE, 5),
    ("open", errno.EMFILE, 5),
    ("fork", errno.EAGAIN, 1),
    ("fork", errno.ENOMEM, 1),
    ("pipe", errno.EMFILE, 4),
    ("socketpair", errno.ENFILE, 1),
    ("epoll_create", errno.EMFILE, 1),
    ("epoll_ctl", errno.ENOMEM, 5),
    ("shm_open", errno.ENFILE, 3),
    ("mq_open", errno.ENOMEM, 1),
    ("sem_open", errno.EMFILE, 1),
    ("mmap", errno.ENOMEM, 3),
    ("dup2", errno.EMFILE, 3),
    ("read", errno.EIO, 5),
    ("write", errno.ENOSPC, 3),
]
ORDER = struct.Struct("16sii")


class Trouble:
    """What the processes of a server read from the library; see failing_calls.c."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(ORDER.pack(b"", 0, -1))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), ORDER.size)

    def make(self, call: str, error: int, after: int) -> None:
        """The call fails after so many of its kind."""
        self.memory[:] = ORDER.pack(call.encode(), error, after)

    @property
    def has_come(self) -> bool:
        """Whether it has failed."""
        return bool(ORDER.unpack(self.memory)[2] < 0)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("calls") / "failing_calls.so"
    source = Path(__file__).parent / "failing_calls.c"
    run([*compiler(), "-shared", "-fPIC", "-O2", str(source), "-o", str(target), "-ldl"])
    return target


@pytest.fixture
def trouble(tmp_path: Path) -> Iterator[Trouble]:
    trouble = Trouble(tmp_path / "order")
    with closing(trouble.memory):
        yield trouble


def serves(server: Server) -> bool:
    """Whether all workers serve."""
    assert server.alive, server.log
    with server.connect() as cache:
        return len(cache.stats()["workers"]) == len(server.worker_pids) == 2


@pytest.mark.watchdog(300)
def test_a_call_that_fails_in_a_respawn_ends_nothing(
    make_server: StartServer,
    eventually: Eventually,
    library: Path,
    trouble: Trouble,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library))
        patch.setenv("KVSERVE_FAILING_CALLS", str(tmp_path / "order"))
        server = make_server("--no-keep", "--log-level", "debug")
    for call, error, count in CALLS:
        victim = server.worker_pids[0]
        trouble.make(call, error, after=chance.randrange(count))
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: trouble.has_come or not server.alive)
        eventually(lambda: serves(server))
        assert victim not in server.worker_pids
    assert server.stop() == 0
