"""A request over which workers die: sent to a second, never to a third; others are served."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from support.servers import Server, StartServer, stopped

import kvserve

NOTE_AT = 840  # of worker 0 in the table's first page: a client's id, and a request's
GETS = 16_000  # in one batch: long enough to be found in execution
BATCHES = 200
Note = tuple[int, int] | None
RUNNING = ("R", "S", "D")


def executing(server: Server) -> Note:
    """What the worker has noted that it executes."""
    with Path(f"/dev/shm{server.names.table}").open("rb") as table:
        table.seek(NOTE_AT)
        note = table.read(16)
    client, request = int.from_bytes(note[:8], "little"), int.from_bytes(note[8:], "little")
    return (client, request) if request else None


def kill_over_a_request(server: Server, before: Note, give_up: threading.Event) -> Note:
    """Kills the worker while it executes a request, other than the one before, and returns that;
    None if none comes any more."""
    (pid,) = wait_for_worker(server)
    while not give_up.is_set():
        if executing(server) in (None, before):
            continue
        os.kill(pid, signal.SIGSTOP)
        while state(pid) in RUNNING:
            pass
        if note := executing(server):
            os.kill(pid, signal.SIGKILL)
            while server.worker_pids == [pid]:
                pass
            return note
        os.kill(pid, signal.SIGCONT)
    return None


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("store", [False, True], ids=["table alone", "store"])
@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_two_deaths_are_enough(
    make_server: StartServer, tmp_path: Path, kind: str, store: bool
) -> None:
    flags = ("--store", f"sqlite:///{tmp_path / 'cache.db'}") if store else ()
    server = make_server("--workers", "1", *flags)
    ended = threading.Event()
    errors: list[BaseException] = []

    def ask() -> None:
        with server.connect(timeout=100) as cache:
            for _ in range(BATCHES):
                p = cache.pipeline()
                for n in range(GETS):
                    p.get(f"key {n}")
                p.execute()

    async def ask_async() -> None:
        async with await kvserve.connect_async(server.name, timeout=100) as cache:
            for _ in range(BATCHES):
                p = cache.pipeline()
                for n in range(GETS):
                    p.get(f"key {n}")
                await p.execute()

    def work() -> None:
        try:
            ask() if kind == "blocking" else asyncio.run(ask_async())
        except kvserve.KvserveError as error:
            errors.append(error)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    notes: list[Note] = [None]
    while note := kill_over_a_request(server, notes[-1], ended):
        notes.append(note)
    thread.join()
    assert [type(error) for error in errors] == [kvserve.WorkerCrashed]
    assert len(set(notes[1:])) == len(notes) - 1 >= 2  # sent anew in a session of its own
    with server.connect(timeout=30) as cache:
        cache.set("after", 1)
        assert cache.verify() == []


def test_what_waited_at_deaths_is_served(make_server: StartServer) -> None:
    """However often: it was not what the workers died over."""
    server = make_server("--workers", "1")
    with server.connect(timeout=100, read="worker") as cache:
        cache.set("key", 0)
        done: list[Any] = []
        for turn in range(4):
            (worker,) = wait_for_worker(server)
            with stopped(worker):
                thread = threading.Thread(target=lambda n=turn: done.append(cache.set("key", n)))
                thread.start()
                waited(server)
                os.kill(worker, signal.SIGKILL)
            thread.join()
        assert len(done) == 4
        assert cache.get("key") == 3


def wait_for_worker(server: Server) -> list[int]:
    while not (pids := server.worker_pids):
        pass
    return pids


def waited(server: Server) -> None:
    """Until the queue holds a message."""
    from kvserve.transport.mqueue import ReceivingQueue

    queue = ReceivingQueue(server.names.worker_queue(0), os.geteuid())
    while not queue.waiting:
        pass
    queue.close()


def test_nothing_is_noted_where_nothing_is_executed(make_server: StartServer) -> None:
    server = make_server("--workers", "1")
    with server.connect() as cache:
        cache.set("key", 1)
        cache.incr("number")
        assert not cache._died_over(0, 0)
        assert executing(server) is None
