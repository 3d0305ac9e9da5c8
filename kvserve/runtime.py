"""The runtime directory of an instance: made, verified, its pid file and its manifest.

The flock on the pid file tells whether an instance lives. The parent takes it before it touches
any object, and its workers inherit it, so that it is free only when the last of them is gone.
The manifest lists what the parent made: /dev/mqueue may not be mounted, so nothing else can.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

from kvserve.descriptors import Descriptor
from kvserve.errors import (
    AlreadyServed,
    ForeignObject,
    InternalError,
    KvserveError,
    LimitError,
    ServerUnavailable,
)
from kvserve.names import Names
from kvserve.objects import is_from_system, user_name

_PID_FILE_BYTES_MAX = 32
_MANIFEST_BYTES_MAX = 1024 * 1024


@contextmanager
def named_errors() -> Iterator[None]:
    """Gives what the system refuses to a client a name of ours; for the places where it opens."""
    try:
        yield
    except KvserveError:
        raise
    except OSError as error:
        if not is_from_system(error):
            raise
        raise LimitError(
            f"the server's objects cannot be opened: {error.strerror or error}; "
            "if too many files are open, raise the limit: ulimit -n"
        ) from error


@contextmanager
def prepared_directory(
    names: Names, group_id: int | None, *, lasting: bool = True
) -> Iterator[None]:
    """The runtime directory for a block of code, as `prepare_directory` makes it.

    What was made here is removed again if the block fails, unless something is in it.

    Args:
        names, group_id: see `prepare_directory`.
        lasting: False: to be removed in any case.
    """
    directory = names.runtime_directory
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    is_needed = False
    try:
        prepare_directory(names, group_id)
        yield
        is_needed = lasting
    finally:
        if missing and not is_needed and remove_directory(names):
            with suppress(OSError):
                for path in missing[1:]:
                    path.rmdir()


def remove_directory(names: Names) -> bool:
    """Removes the runtime directory unless something is in it; returns whether it did."""
    try:
        for directory in (names.clients_directory, names.runtime_directory):
            with suppress(FileNotFoundError):
                directory.rmdir()
    except OSError:
        return False
    return True


def prepare_directory(names: Names, group_id: int | None) -> None:
    """Makes the runtime directory and its clients directory, or verifies what is there.

    Args:
        names: whose.
        group_id: the group whose members may be clients; None keeps everybody else out.

    Raises:
        ForeignObject: something else stands in its place, or it belongs to somebody else.
    """
    directory = names.runtime_directory
    try:
        directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        for path, mode in (
            (directory, 0o700 if group_id is None else 0o750),
            # Members make FIFOs here: setgid gives these the group, sticky protects each's own.
            (names.clients_directory, 0o700 if group_id is None else 0o3770),
        ):
            path.mkdir(mode=0o700, exist_ok=True)
            _verify_directory(path, owners={os.geteuid()})
            if group_id is not None:
                _give_to_group(path, group_id)
            path.chmod(mode)
    except OSError as error:
        if isinstance(error, ForeignObject):
            raise
        raise ForeignObject(
            f"cannot use the runtime directory {directory}: {error.strerror}; "
            "set KVSERVE_RUNTIME_DIR to a directory of your own"
        ) from None


def _give_to_group(path: Path, group_id: int) -> None:
    try:
        os.chown(path, -1, group_id, follow_symlinks=False)
    except PermissionError:
        user, group = user_name(os.geteuid()), grp.getgrgid(group_id).gr_name
        raise ForeignObject(
            f"user {user} is not in the group {group}, so cannot let its members in; "
            f"as root: usermod -aG {group} {user}, then log in anew"
        ) from None


def verify_directory(names: Names) -> int:
    """The uid that owns the instance, which must own all of its objects.

    Raises:
        ServerUnavailable: there is no such directory, so nobody serves this name.
        ForeignObject: it is not a directory, everybody can write to it, or it belongs neither to
            this user nor to root nor to a user who gave our group access.
    """
    try:
        return _verify_directory(names.runtime_directory, owners=None)
    except FileNotFoundError:
        raise not_served(names) from None
    except NotADirectoryError:
        raise _not_a_directory(names) from None
    except PermissionError as error:
        if isinstance(error, ForeignObject):
            raise
        raise _not_permitted(names) from None


def _verify_directory(path: Path, owners: set[int] | None) -> int:
    above = path.parent.stat()
    if above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX:
        raise ForeignObject(
            f"{path.parent} lets others replace what is in it; run: chmod go-w {path.parent}"
        )
    status = path.lstat()
    if above.st_uid not in {0, os.geteuid(), status.st_uid}:
        raise ForeignObject(f"{path.parent} belongs to uid {above.st_uid}; use another directory")
    if not stat.S_ISDIR(status.st_mode):
        raise ForeignObject(f"{path} is not a directory; remove it")
    if status.st_mode & 0o007:
        raise ForeignObject(f"{path} is open to everybody; run: chmod o-rwx {path}")
    if owners is None:
        # A directory that grants our group access was opened to us by its owner on purpose.
        owners = {0, os.geteuid()}
        if status.st_mode & 0o050 == 0o050 and status.st_gid in {os.getegid(), *os.getgroups()}:
            owners.add(status.st_uid)
    if status.st_uid not in owners:
        raise ForeignObject(f"{path} belongs to uid {status.st_uid}; use another --name")
    return status.st_uid


class PidFile:
    """The pid file and the lock on it. Closing the descriptor in a fork keeps the parent's lock."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, names: Names) -> Self:
        """Takes the lock and writes this process's pid.

        Raises:
            AlreadyServed: another process holds the lock; `holder` tells which.
            ForeignObject: something else stands in its place.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(names.pid_file, flags, 0o640)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.ELOOP):
                raise
            raise ForeignObject(f"{names.pid_file} is not a plain file; remove it") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = _read_pid(descriptor)
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise AlreadyServed(
                f"instance {names.name!r} is held by pid {pid or '(unknown)'}"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Gives the lock up, unless a worker that inherited it still lives."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def holder(names: Names) -> int | None:
    """The pid of the process that serves the instance; None if nobody does.

    The pid is as its own pid namespace counts. 0 means that somebody holds the lock whose pid is
    not there to read.

    Raises:
        ForeignObject: this user may not look, or there is no directory to look into.
    """
    try:
        file = Descriptor.open(names.pid_file, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise _not_a_directory(names) from None
    except PermissionError:
        raise _not_permitted(names) from None
    with file:
        try:
            # Shared, for a moment: a server that starts in it tries again.
            fcntl.flock(file.number, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Explicitly: a child that is forked just now would keep it with its copy.
            fcntl.flock(file.number, fcntl.LOCK_UN)
        except OSError as error:
            if not is_from_system(error):
                raise
            return _read_pid(file.number)
    return None


def _not_a_directory(names: Names) -> ForeignObject:
    path = names.runtime_directory
    if path.parent.is_dir():
        return ForeignObject(f"{path} is not a directory; remove it")
    return ForeignObject(
        f"{path.parent} is not a directory; set KVSERVE_RUNTIME_DIR to a directory of your own"
    )


def _not_permitted(names: Names) -> ForeignObject:
    return ForeignObject(
        f"not permitted to use instance {names.name!r}: {names.runtime_directory} belongs to "
        "another user, who must start the server with --group and a group of yours"
    )


def _read_pid(descriptor: int) -> int:
    try:
        return int(os.pread(descriptor, _PID_FILE_BYTES_MAX, 0) or 0)
    except ValueError:
        return 0


class Manifest(NamedTuple):
    """What a running instance consists of, written by its parent for clients and for `clean`.

    Args:
        instance_id: 32 hex digits, new with every table.
        pid: the parent's.
        workers, shards: their numbers; shard s is served by worker s % workers.
        writers: how many other processes may write into the table.
        queue_message_bytes: the longest frame that goes through a queue.
        value_bytes_max: the largest value.
        group_id: the group whose members may be clients, or None.
        memory_objects, semaphores, queues: the names of all kernel objects.
    """

    instance_id: str
    pid: int
    protocol_version: int
    layout_version: int
    workers: int
    writers: int
    shards: int
    queue_message_bytes: int
    queue_depth: int
    value_bytes_max: int
    group_id: int | None
    memory_objects: dict[str, int]
    semaphores: list[str]
    queues: list[str]

    def write(self, names: Names) -> None:
        """Replaces the manifest in one step."""
        temporary = names.manifest.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        with os.fdopen(descriptor, "w") as file:
            if self.group_id is not None:
                os.fchown(descriptor, -1, self.group_id)
            json.dump(self._asdict(), file, indent=1)
        temporary.replace(names.manifest)

    @classmethod
    def read(cls, names: Names) -> Self:
        """The manifest of an instance.

        Raises:
            ServerUnavailable: there is none.
            ForeignObject: it is not a manifest of this version of kvserve.
        """
        try:
            file = Descriptor.open(names.manifest, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise not_served(names) from None
        try:
            with file:
                content = os.read(file.number, _MANIFEST_BYTES_MAX)
            fields = json.loads(content)
            if set(fields) != set(cls._fields):
                raise InternalError("other fields")
            return cls(**fields)
        except (ValueError, TypeError, InternalError, BlockingIOError) as error:
            raise ForeignObject(f"{names.manifest} is not a manifest of ours: {error}") from None


def not_served(names: Names, also: str = "") -> ServerUnavailable:
    """The error for an instance that nobody serves; `also` goes on with its sentence."""
    option = "" if names.name == "default" else f" --name {names.name}"
    return ServerUnavailable(
        f"no kvserve server named {names.name!r} is running{also}; start one: kvserve serve{option}"
    )
