"""What may lie under a name where a plain file or a FIFO is expected, for tests to plant."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

Plant = Callable[[Path], object]


def full_directory(path: Path) -> None:
    """A directory that rmdir refuses."""
    path.mkdir()
    (path / "a").mkdir()
    (path / "a" / "b").write_text("something")


def unix_socket(path: Path) -> None:
    """A socket that was bound here; its path may be longer than an address may be."""
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)


ODDITIES: dict[str, Plant] = {
    "directory": Path.mkdir,
    "full directory": full_directory,
    "link to nothing": lambda path: path.symlink_to("elsewhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to a directory": lambda path: path.symlink_to("/proc/self/fd"),
    "FIFO": os.mkfifo,
    "socket": unix_socket,
}


def uproot(path: Path) -> None:
    """Removes what was planted, if it is still there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
