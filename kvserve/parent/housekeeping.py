"""What the parent does now and then: sweeps up after dead clients, and sees that the names stand.

A name can vanish under a living server: systemd's RemoveIPC unlinks all objects of a user who logs
out, and an operator may remove files by hand. Those who are attached go on, those who come find
nothing: two halves that do not see each other. So the server notices, says so, and stops.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from kvserve.names import Names, parse_client_file, parse_notes_file

FIFO_AGE_SECONDS = 10.0  # a client that has just made its FIFO has not opened it yet
_SEGMENTS = Path("/dev/shm")  # where shm_open and sem_open of Linux keep their objects


def client_fifos(names: Names) -> Iterator[tuple[Path, int]]:
    """The files of the clients directory that have a FIFO's name, each with its client's id."""
    with contextlib.suppress(FileNotFoundError):
        for path in names.clients_directory.iterdir():
            client_id = parse_client_file(path.name)
            if client_id is not None:
                yield path, client_id


def remove_all_fifos(names: Names) -> list[str]:
    """Removes every FIFO of the clients directory; returns their paths."""
    removed = []
    for path, _ in list(client_fifos(names)):
        path.unlink(missing_ok=True)
        removed.append(str(path))
    return removed


def remove_all_notes(names: Names) -> list[str]:
    """Removes the notes of readers of other users from the clients directory; returns their paths.

    A name of such a file may lead to anything that a member of the group made. What cannot be
    removed stays.
    """
    removed = []
    with contextlib.suppress(OSError):
        for path in list(names.clients_directory.iterdir()):
            if parse_notes_file(path.name) is None:
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(str(path))
    return removed


def remove_dead_fifos(names: Names, now: float | None = None) -> int:
    """Removes the FIFOs of clients that are gone.

    A client keeps the read end of its reply FIFO open as long as it lives. So when nobody reads
    there, and the FIFO is not a new one, both of its FIFOs are left over.

    Args:
        names: whose.
        now: seconds since the epoch; default: the present.

    Returns:
        How many were removed.
    """
    now = time.time() if now is None else now
    removed = 0
    for path, client_id in list(client_fifos(names)):
        try:
            age = now - path.lstat().st_mtime
            if age >= FIFO_AGE_SECONDS and not _has_reader(names.reply_fifo(client_id)):
                path.unlink()
                removed += 1
        except FileNotFoundError:  # its client, or the last turn of this loop, was quicker
            continue
    return removed


def _has_reader(fifo: Path) -> bool:
    try:
        if not stat.S_ISFIFO(fifo.lstat().st_mode):
            return False
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        # Anything else than "nobody reads" and "no such file" is no proof of a death.
        return error.errno not in (errno.ENXIO, errno.ENOENT)
    return True


class NameWatch:
    """Remembers which objects the names of shared memory and semaphores lead to.

    Args:
        memory_objects: names of shared memory, with their slash.
        semaphores: names of semaphores, with their slash.
    """

    def __init__(self, memory_objects: Iterable[str], semaphores: Iterable[str]) -> None:
        paths = [memory_path(name) for name in memory_objects]
        paths += [semaphore_path(name) for name in semaphores]
        self._identities = {path: _identity(path) for path in paths}

    def vanished(self) -> list[Path]:
        """The paths that lead nowhere now, or to another object."""
        return [path for path, known in self._identities.items() if _identity(path) != known]


def memory_path(name: str) -> Path:
    """The file of a shared memory object."""
    return _SEGMENTS / name.removeprefix("/")


def semaphore_path(name: str) -> Path:
    """The file of a named semaphore."""
    return _SEGMENTS / ("sem." + name.removeprefix("/"))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
