"""Finds what an instance has left on the host: kernel objects, FIFOs, processes."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import posix_ipc

from kvserve.names import Names

SHARED_MEMORY = Path("/dev/shm")
QUEUES_PROBED = 8  # /dev/mqueue may not be mounted, so queues can only be asked for by name
PATIENCE_SECONDS = 5.0  # a process that was told to end needs a moment


def leftovers(names: Names) -> list[str]:
    """Names everything of an instance that still exists, for people to read."""
    found = [str(path) for path in files(names)]
    found += [f"queue {queue}" for queue in queues(names)]
    found += [f"process {pid}: {command}" for pid, command in processes(names).items()]
    return found


def remove_leftovers(names: Names) -> None:
    """Removes what `leftovers` finds, by force, so that one careless test spoils no other."""
    end_processes(names)
    for path in files(names):
        path.unlink(missing_ok=True)
    for queue in queues(names):
        posix_ipc.unlink_message_queue(queue)


def files(names: Names) -> list[Path]:
    """The segments and semaphores, which are files on Linux, and the FIFOs."""
    found = list(SHARED_MEMORY.glob(f"kvserve.{names.name}.*"))
    found += SHARED_MEMORY.glob(f"sem.kvserve.{names.name}.*")
    if names.runtime_directory.is_dir():
        entries = names.runtime_directory.rglob("*")
        found += [path for path in entries if stat.S_ISFIFO(path.lstat().st_mode)]
    return found


def queues(names: Names) -> list[str]:
    """The names of the instance's message queues that exist."""
    found = []
    for worker in range(QUEUES_PROBED):
        try:
            posix_ipc.MessageQueue(names.worker_queue(worker)).close()
        except posix_ipc.ExistentialError:
            continue
        found.append(names.worker_queue(worker))
    return found


def processes(names: Names) -> dict[int, str]:
    """Processes with the instance's name in their command line, but for this process."""
    return {
        pid: command
        for pid, (_, command) in _process_table().items()
        if names.name in command and pid != os.getpid()
    }


def children(pid: int | None = None) -> dict[int, str]:
    """The child processes of `pid`, by default of this process, and their command lines."""
    parent = os.getpid() if pid is None else pid
    listed: list[str] = []
    try:
        for thread in Path(f"/proc/{parent}/task").iterdir():
            listed += (thread / "children").read_text().split()
    except FileNotFoundError:  # not every kernel lists them, or the process is gone
        return {child: line for child, (of, line) in _process_table().items() if of == parent}
    found = {int(child): _process(Path("/proc") / child) for child in listed}
    return {child: process[1] for child, process in found.items() if process is not None}


def end_processes(names: Names) -> list[str]:
    """Ends what still runs of an instance; says what did not end by itself in a while."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while (running := processes(names)) and time.monotonic() < give_up:
        time.sleep(0.01)
    for pid in running:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    while processes(names):
        time.sleep(0.01)
    return [f"{pid}: {command}" for pid, command in running.items()]


def _process_table() -> dict[int, tuple[int, str]]:
    """Parent and command line of every process."""
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (process := _process(entry)):
            table[int(entry.name)] = process
    return table


def _process(entry: Path) -> tuple[int, str] | None:
    """Parent and command line of a process; None of a zombie, which is over, or one that ended."""
    try:
        state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else (int(parent), command.strip())
