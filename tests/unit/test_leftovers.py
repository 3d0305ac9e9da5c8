"""The search for leftovers finds each kind of thing; otherwise no test would ever be at fault."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from subprocess import Popen

import posix_ipc
import pytest
from support.leftovers import children, end_processes, leftovers, remove_leftovers

from kvserve.names import Names

Leave = Callable[[Names], AbstractContextManager[None]]


@contextmanager
def shared_memory(names: Names) -> Iterator[None]:
    """A segment."""
    memory = posix_ipc.SharedMemory(names.table, posix_ipc.O_CREX, size=4096)
    memory.close_fd()
    yield
    memory.unlink()


@contextmanager
def semaphore(names: Names) -> Iterator[None]:
    """A semaphore."""
    posix_ipc.Semaphore(names.shard_semaphore(3), posix_ipc.O_CREX).close()
    yield
    posix_ipc.unlink_semaphore(names.shard_semaphore(3))


@contextmanager
def queue(names: Names) -> Iterator[None]:
    """A message queue."""
    queue = posix_ipc.MessageQueue(
        names.worker_queue(7), posix_ipc.O_CREX, max_messages=1, max_message_size=64
    )
    queue.close()
    yield
    queue.unlink()


@contextmanager
def fifo(names: Names) -> Iterator[None]:
    """A FIFO."""
    names.clients_directory.mkdir(parents=True)
    os.mkfifo(names.reply_fifo(1))
    yield
    names.reply_fifo(1).unlink()


@contextmanager
def process(names: Names) -> Iterator[None]:
    """A process, as it were of a server."""
    with Popen([sys.executable, "-c", "import time; time.sleep(1000)", names.name]) as child:
        yield
        child.kill()


@pytest.mark.parametrize("leave", [shared_memory, semaphore, queue, fifo, process])
def test_each_kind_is_found(names: Names, leave: Leave) -> None:
    assert leftovers(names) == []
    with leave(names):
        assert len(leftovers(names)) == 1
    assert leftovers(names) == []


def test_everything_can_be_removed(names: Names) -> None:
    posix_ipc.SharedMemory(names.table, posix_ipc.O_CREX, size=4096).close_fd()
    posix_ipc.Semaphore(names.shard_semaphore(0), posix_ipc.O_CREX).close()
    posix_ipc.MessageQueue(names.worker_queue(0), posix_ipc.O_CREX, max_messages=1).close()
    names.clients_directory.mkdir(parents=True)
    os.mkfifo(names.request_fifo(1))
    assert len(leftovers(names)) == 4
    remove_leftovers(names)
    assert leftovers(names) == []


def test_what_is_another_instances_is_not_ours(
    names: Names, new_names: Callable[[], Names]
) -> None:
    with shared_memory(new_names()):
        assert leftovers(names) == []


def test_children_are_found() -> None:
    with Popen([sys.executable, "-c", "import time; time.sleep(1000)"]) as child:
        assert child.pid in children()
        child.kill()
    assert child.pid not in children()


def test_stray_processes_are_ended_and_named(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.leftovers.PATIENCE_SECONDS", 0.0)
    with Popen([sys.executable, "-c", "import time; time.sleep(1000)", names.name]) as child:
        strays = end_processes(names)
    assert len(strays) == 1
    assert strays[0].startswith(f"{child.pid}:")
