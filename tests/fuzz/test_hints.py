"""Clients of the server's user write the hints: whatever is in them, nobody is locked out."""

from __future__ import annotations

import mmap
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import posix_ipc
import pytest
from support.servers import Server, StartServer

from kvserve.errors import ServerError
from kvserve.names import Names

Eventually = Callable[[Callable[[], object]], None]
KEYS = 200


@contextmanager
def hints_of(names: Names) -> Iterator[mmap.mmap]:
    """The hints as a client has them: shared, and writable."""
    segment = posix_ipc.SharedMemory(names.hints)
    try:
        with mmap.mmap(segment.fd, 0) as memory:
            yield memory
    finally:
        segment.close_fd()


def serves(server: Server) -> bool:
    """Whether a new client finds its server, its values, and a table that is whole."""
    try:
        with server.connect(timeout=20) as cache:
            assert cache.get("kept") == "value"
            cache.set_many({f"key {number}": number for number in range(KEYS)})
            assert cache.get_many([f"key {number}" for number in range(KEYS)])
            assert cache.verify() == []
    except ServerError:
        return False
    return True


@pytest.mark.parametrize("content", ["zeros", "ones", "noise"])
def test_overwritten_hints_lock_nobody_out(
    make_server: StartServer, eventually: Eventually, content: str, seed: int
) -> None:
    """Found by reading: the first 24 bytes were checked, by new clients and by new workers."""
    server = make_server("--workers", "1")
    with server.connect() as cache:
        cache.set("kept", "value")
    with hints_of(server.names) as memory:
        fill = {"zeros": bytes(len(memory)), "ones": b"\xff" * len(memory)}
        memory[:] = fill.get(content) or random.Random(seed).randbytes(len(memory))
    assert serves(server)
    (worker,) = server.worker_pids
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: server.worker_pids not in ([], [worker]))
    eventually(lambda: serves(server))
    assert server.stop() == 0
    restarted = make_server("--workers", "1", names=server.names)
    assert serves(restarted)
