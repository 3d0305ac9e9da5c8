"""Records where an instance is served from, for processes with another runtime directory.

The names of kernel objects do not depend on the runtime directory. So a process whose directory
differs from the server's finds the objects, and here the server and its directory. A pid has a
meaning only in one pid namespace, so a record names that, too.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import struct
from pathlib import Path
from typing import NamedTuple

from kvserve.names import Names, memory_path
from kvserve.objects import is_locked, user_name

RECORD_AT = 64  # in the segment of the settings
RECORD_BYTES = 4032
_HEAD = struct.Struct("=QQI")  # pid, its namespace, bytes of the directory's path behind it
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Whereabouts(NamedTuple):
    """The server of an instance, and its runtime directory.

    Args:
        runtime_directory: the server's.
        pid: the server's, in its own pid namespace.
        pid_namespace: that namespace; 0 if unknown.
    """

    runtime_directory: Path
    pid: int
    pid_namespace: int

    @property
    def server(self) -> str:
        """The server, for people to read."""
        there = " of another pid namespace, as a container has one" if self.is_foreign else ""
        return f"pid {self.pid}{there}"

    @property
    def is_foreign(self) -> bool:
        """Whether the pid is of another pid namespace; here it is another process's, or none's."""
        here = pid_namespace()
        return 0 not in (here, self.pid_namespace) and here != self.pid_namespace

    @property
    def export(self) -> str:
        """How to use the server's runtime directory, as the end of a sentence."""
        if not os.path.isdir(self.runtime_directory):  # noqa: PTH112 - Path.is_dir may raise
            return (
                "this process does not see that directory: let its user in, "
                "or share the directory with its container"
            )
        return f"export KVSERVE_RUNTIME_DIR={shlex.quote(str(self.runtime_directory.parent))}"


def record(names: Names) -> bytes:
    """The record of this process, to be written at RECORD_AT before it serves the instance."""
    path = os.fsencode(names.runtime_directory)
    if len(path) > RECORD_BYTES - _HEAD.size:
        path = b""
    return _HEAD.pack(os.getpid(), pid_namespace(), len(path)) + path


def elsewhere(names: Names) -> Whereabouts | None:
    """The server of the instance, if its runtime directory is another one than that of `names`.

    A record counts only if this process trusts its owner anyway: root, this user, or a user who
    gave a group of this process access.
    """
    found = _read(names)
    if found is None or found.runtime_directory == names.runtime_directory:
        return None
    return found if _is_served(names, found) else None


def stranger(names: Names) -> str | None:
    """The user who owns the objects of the instance's names, if that user is not trusted."""
    with contextlib.suppress(OSError):
        status = memory_path(names.table).lstat()
        if not _is_trusted(status):
            return user_name(status.st_uid)
    return None


def pid_namespace() -> int:
    """The pid namespace of this process; 0 if unknown."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def openers(path: Path) -> list[int]:
    """The processes that have a file open, as far as this one may see them."""
    found = []
    with contextlib.suppress(OSError):
        wanted = path.stat()
        for process in Path("/proc").iterdir():
            if process.name.isdecimal() and _has_open(process, wanted):
                found.append(int(process.name))
    return sorted(found)


def may_have_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open; also True if it is another user's, which hides that."""
    process = Path(f"/proc/{pid}")
    try:
        next((process / "fd").iterdir(), None)
        return _has_open(process, path.stat())
    except OSError as error:
        return isinstance(error, PermissionError)


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(descriptor.stat(), wanted):
                    return True
    return False


def _read(names: Names) -> Whereabouts | None:
    try:
        descriptor = os.open(memory_path(names.settings), _READ)
    except OSError:
        return None
    try:
        if not _is_trusted(os.fstat(descriptor)):
            return None
        data = os.pread(descriptor, RECORD_BYTES, RECORD_AT)
    finally:
        os.close(descriptor)
    if len(data) < _HEAD.size:
        return None
    pid, namespace, length = _HEAD.unpack_from(data)
    path = data[_HEAD.size : _HEAD.size + length]
    if not pid or not path.startswith(b"/") or b"\0" in path or len(path) != length:
        return None
    return Whereabouts(Path(os.fsdecode(path)), pid, namespace)


def _is_trusted(status: os.stat_result) -> bool:
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o022:
        return False
    if status.st_uid in {0, os.geteuid()}:
        return True
    is_member = status.st_gid in {os.getegid(), *os.getgroups()}
    return bool(status.st_mode & 0o040) and is_member


def _is_served(names: Names, found: Whereabouts) -> bool:
    """Whether the record's server lives: it holds the table's lock; its pid, if of here, exists."""
    if not found.is_foreign:
        try:
            os.kill(found.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
    with contextlib.suppress(OSError):
        return is_locked(memory_path(names.table))
    return False
