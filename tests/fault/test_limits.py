"""Small machines: /dev/shm of 4 KiB and 64 MiB, few bytes for queues, many clients, signals."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Eventually
from support.servers import Server, StartServer, impatient, stopped

import kvserve
from kvserve.names import Names

CLIENTS = 200
ATTACHES = int(os.environ.get("KVSERVE_TEST_ATTACHES", "300"))

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount and to limit")


def serve(names: Names, *flags: str, before: str = "") -> tuple[int, str]:
    """Runs a server in a shell, after other commands; its exit code and what it said.

    It is stopped when it is ready.
    """
    command = f"{before} exec {sys.executable} -m kvserve serve "
    command += f"--name {names.name} {' '.join(flags)}"
    with subprocess.Popen(
        # A user namespace counts the bytes of queues anew: others of this user do not matter.
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", command],
        env=os.environ | {"KVSERVE_RUNTIME_DIR": str(names.runtime_directory.parent)},
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stderr is not None
        said = ""
        for line in server.stderr:
            said += line
            if "ready: " in line:
                server.terminate()
    return server.returncode, said


def tmpfs(size: str) -> str:
    """Puts another /dev/shm in place of the system's, for this shell alone."""
    return f"mount -t tmpfs -o size={size} tmpfs /dev/shm;"


def test_no_room_at_all(names: Names) -> None:
    status, said = serve(names, "--memory", "16MiB", before=tmpfs("4k"))
    assert status == 3
    assert "/dev/shm" in said
    assert "mount -o remount,size=" in said
    assert "ready" not in said


def test_dockers_default_is_enough_for_ours(names: Names) -> None:
    status, said = serve(names, "--workers", "2", "--no-keep", before=tmpfs("64m"))
    assert "ready" in said
    assert status == 0


def test_dockers_default_is_too_small_for_more(names: Names) -> None:
    status, said = serve(names, "--memory", "100MiB", before=tmpfs("64m"))
    assert status == 3
    assert "--shm-size" in said
    assert "ready" not in said


def test_a_full_tmpfs_is_noticed_before_anything_is_made(names: Names) -> None:
    fill = "head -c 60000000 /dev/zero > /dev/shm/filled;"
    left = "trap 'ls /dev/shm' EXIT;"  # not run: exec replaces the shell
    status, said = serve(names, "--memory", "16MiB", before=tmpfs("64m") + fill + left)
    assert status == 3
    assert "room" in said or "free" in said


def test_queues_become_smaller_before_they_are_refused(names: Names) -> None:
    status, said = serve(names, "--workers", "1", "--no-keep", before="ulimit -q 20000;")
    assert "ready" in said
    assert "instead of 64 of 8 KiB" in said
    assert status == 0


def test_no_bytes_for_queues(names: Names) -> None:
    status, said = serve(names, "--workers", "1", before="ulimit -q 100;")
    assert status == 3
    assert "ulimit -q" in said
    assert "ready" not in said


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Two hundred clients of one process hold more than the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_two_hundred_clients_at_once(server: Server) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect(timeout=30)) for _ in range(CLIENTS)]

        def work(number: int) -> None:
            for turn in range(5):
                clients[number].set(f"client {number}", turn)
                clients[number].incr("counter")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert clients[0].get("counter") == 5 * CLIENTS
        assert sum(worker["sessions"] for worker in clients[0].stats()["workers"]) >= CLIENTS
    assert not any(server.names.clients_directory.iterdir())


@pytest.mark.watchdog(120 + ATTACHES / 10)
def test_attaching_costs_the_server_nothing(server: Server, eventually: Eventually) -> None:
    def descriptors() -> int:
        pids = [os.getpid(), *server.worker_pids]
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)

    def attach() -> None:
        with server.connect() as cache:
            cache.set("key", 1)
            cache.ping()

    attach()
    with server.connect() as cache:

        def others_are_gone() -> bool:  # the workers notice a client's end a moment later
            return all(worker["sessions"] == 1 for worker in cache.stats()["workers"])

        eventually(others_are_gone)
        before, began = descriptors(), time.monotonic()
        for _ in range(ATTACHES):
            attach()
        seconds = time.monotonic() - began
        eventually(others_are_gone)
        print(f"{ATTACHES} in {seconds:.1f} s; descriptors {before}, then {descriptors()}")
        assert descriptors() == before


def test_a_signal_during_every_blocking_call(make_server: StartServer) -> None:
    """A handler that uses the cache itself, in the midst of a use of the cache."""
    server = make_server("--workers", "1")
    with server.connect(timeout=20) as cache:
        handled = 0

        def handle(*_: object) -> None:
            nonlocal handled
            handled += 1
            cache.incr("signals")
            cache.get("key 1")
            signal.setitimer(signal.ITIMER_REAL, 0.0007)  # not before this one is over

        previous = signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0007)
        try:
            for turn in range(2000):
                cache.set(f"key {turn % 10}", [turn])
                assert cache.get(f"key {turn % 10}") == [turn]
            large = os.urandom(200_000)
            for _ in range(50):
                cache.set("large", large)
                assert cache.get("large") == large
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)  # or the last one would begin the next
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        assert handled > 10
        assert cache.get("signals") == handled


def test_a_finalizer_that_uses_the_cache(server: Server) -> None:
    """T25: the collector may run anywhere, and with it code that comes back in."""
    with server.connect() as cache:

        class Finalized:
            def __init__(self) -> None:
                self.itself = self

            def __del__(self) -> None:
                cache.incr("finalized")
                cache.get("key")

        for turn in range(3000):
            Finalized()
            cache.set("key", {"turn": turn, "list": [turn] * 10})
            assert cache.get("key")["turn"] == turn
        gc.collect()  # the rest of them, while there is a cache
        assert cache.incr("finalized", 0) > 0


def test_a_queue_that_stays_full_is_busy(make_server: StartServer) -> None:
    server = make_server("--workers", "1")
    with server.connect(timeout=20) as cache:
        cache.ping()
        with stopped(server.worker_pids[0]), impatient(cache):
            for _ in range(4):
                with pytest.raises(kvserve.RequestTimeout):
                    cache.set("key", 1)
            with pytest.raises(kvserve.ServerBusy):
                cache.incr("counter")
        cache.ping()
        assert cache.incr("counter") == 1
