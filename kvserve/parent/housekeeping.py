"""Removes what dead clients left, and watches whether the names of kernel objects still exist."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from kvserve.names import Names, memory_path, parse_client_file, parse_notes_file, semaphore_path

FIFO_AGE_SECONDS = 10.0  # a client that has just made its FIFO has not opened it yet
_PIECE_ENTRIES = 256  # of the clients directory; take 3 ms


def remove_all_fifos(names: Names) -> list[str]:
    """Removes every FIFO of the clients directory; returns their paths.

    A FIFO that cannot be removed stays, see `sweep_dead_fifos`.
    """
    with _clients_directory(names) as directory:
        if directory is None:
            return []
        removed = [name for name in _client_files(directory) if _remove(directory, name)]
    return [str(names.clients_directory / name) for name in removed]


def remove_all_notes(names: Names) -> list[str]:
    """Removes other users' notes of reads from the clients directory; returns their paths.

    Such a name may lead to anything that a member of the group made. What cannot be removed
    stays.
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
    """Removes the FIFOs of clients that are gone, all in one go; see `sweep_dead_fifos`."""
    return sum(sweep_dead_fifos(names, now))


def sweep_dead_fifos(names: Names, now: float | None = None) -> Iterator[int]:
    """Removes the FIFOs of clients that are gone, piece by piece.

    A client keeps the read end of its reply FIFO open as long as it lives. So when the FIFO has no
    reader and is not new, both FIFOs of that client are left over.

    Members of a group can make anything in the clients directory, in any number. So a piece is
    short. Entries that are no FIFO are removed too, as far as the directory's owner can: a
    directory that is not empty stays. It does no harm, because clients choose their names at
    random.

    Args:
        names: the instance's.
        now: seconds since the epoch; default: the present.

    Yields:
        How many were removed, after each piece.
    """
    now = time.time() if now is None else now
    with _clients_directory(names) as directory:
        files = [] if directory is None else _client_files(directory)
    for first in range(0, len(files), _PIECE_ENTRIES):
        with _clients_directory(names) as directory:
            if directory is None:
                return
            piece = files[first : first + _PIECE_ENTRIES]
            dead = [name for name in piece if _is_dead(directory, name, now)]
            removed = sum(_remove(directory, name) for name in dead)
        yield removed  # outside the block: a worker forked meanwhile would inherit the descriptor


def _client_files(directory: int) -> list[str]:
    """The entries of the clients directory that have a FIFO's name."""
    entries = os.listdir(directory)
    return [name for name in entries if parse_client_file(name) is not None]


def _is_dead(directory: int, name: str, now: float) -> bool:
    try:
        modified = os.lstat(name, dir_fd=directory).st_mtime
    except OSError:  # its client, or an earlier piece, removed it first
        return False
    # abs: a time in the future means that the clock was set back since.
    is_old = abs(now - modified) >= FIFO_AGE_SECONDS
    return is_old and not _has_reader(directory, name.replace(".request", ".reply"))


@contextlib.contextmanager
def _clients_directory(names: Names) -> Iterator[int | None]:
    """The clients directory, open; None if it does not exist, or is no directory."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        directory = os.open(names.clients_directory, flags)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        yield None
        return
    try:
        yield directory
    finally:
        os.close(directory)


def _remove(directory: int, name: str) -> bool:
    for remove in (os.unlink, os.rmdir):
        with contextlib.suppress(OSError):
            remove(name, dir_fd=directory)
            return True
    return False


def _has_reader(directory: int, fifo: str) -> bool:
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if not stat.S_ISFIFO(os.lstat(fifo, dir_fd=directory).st_mode):
            return False
        os.close(os.open(fifo, flags, dir_fd=directory))
    except OSError as error:
        # Only "no reader" and "no such file" prove a death.
        return error.errno not in (errno.ENXIO, errno.ENOENT)
    return True


class NameWatch:
    """Remembers which objects the names of shared memory and semaphores lead to.

    `repair` says what is done about those that vanish.

    Args:
        memory_objects: names of shared memory, with their slash.
        semaphores: names of semaphores, with their slash.
    """

    def __init__(self, memory_objects: Iterable[str], semaphores: Iterable[str]) -> None:
        paths = [memory_path(name) for name in memory_objects]
        paths += [semaphore_path(name) for name in semaphores]
        self._identities = {path: identity(path) for path in paths}

    def vanished(self) -> list[Path]:
        """The paths that now lead nowhere, or to another object."""
        return [path for path, known in self._identities.items() if identity(path) != known]


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode, which differ for another object of the same name; None if there is none."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino
