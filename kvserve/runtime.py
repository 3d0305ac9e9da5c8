"""Makes and verifies the runtime directory of an instance, and locks its pid file.

The flock on the pid file shows whether an instance lives. The parent takes it before it touches
any object, and its workers inherit it, so that it is free only when the last of them is gone.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from kvserve import whereabouts
from kvserve.descriptors import Descriptor
from kvserve.errors import (
    AlreadyServed,
    ForeignObject,
    KvserveError,
    LimitError,
    ServerUnavailable,
)
from kvserve.names import Names
from kvserve.objects import is_from_system, user_name
from kvserve.shortages import room_for, shortage

_PID_FILE_BYTES_MAX = 32
_FLOCK = struct.Struct("hhqqi")  # struct flock: type, whence, start, length, pid


@contextmanager
def named_errors() -> Iterator[None]:
    """Turns what the system refuses to a client into LimitError, where it opens the objects."""
    try:
        yield
    except KvserveError:
        raise
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and not is_from_system(error):
            raise
        text = shortage(error) or getattr(error, "strerror", None) or str(error)
        raise LimitError(f"the server's objects cannot be opened: {text}") from error


@contextmanager
def prepared_directory(
    names: Names, group_id: int | None, *, lasting: bool = True
) -> Iterator[None]:
    """The runtime directory for a block of code, as `prepare_directory` makes it.

    Directories made here are removed again if the block fails, unless they are not empty.

    Args:
        names, group_id: see `prepare_directory`.
        lasting: False to remove them in any case.
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
    """Removes the runtime directory unless it is not empty; returns whether it did."""
    try:
        # Checked first: if a pid file is there, the clients directory is another server's.
        with suppress(FileNotFoundError):
            if any(path != names.clients_directory for path in names.runtime_directory.iterdir()):
                return False
        for directory in (names.clients_directory, names.runtime_directory):
            with suppress(FileNotFoundError):
                directory.rmdir()
    except OSError:
        return False
    return True


def prepare_directory(names: Names, group_id: int | None) -> None:
    """Makes the runtime directory and its clients directory, or verifies what is there.

    Args:
        names: the instance's.
        group_id: the group whose members may be clients; None keeps all other users out.

    Raises:
        ForeignObject: it is no directory, or belongs to another user.
    """
    directory = names.runtime_directory
    try:
        directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        for path, mode in (
            (directory, 0o700 if group_id is None else 0o750),
            # Members make FIFOs here: setgid gives these the group, sticky protects each member's.
            (names.clients_directory, 0o700 if group_id is None else 0o3770),
        ):
            with suppress(FileExistsError):  # whatever it is
                path.mkdir(mode=0o700)
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
        ServerUnavailable: there is no such directory, so this name is not served.
        ForeignObject: it is not a directory, all users can write to it, or it belongs neither to
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
        raise ForeignObject(f"{path} is open to all users; run: chmod o-rwx {path}")
    if owners is None:
        # If a directory grants our group access, its owner opened it to us on purpose.
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
            AlreadyServed: another process holds the lock; `holder` returns which.
            ForeignObject: it is no plain file.
        """
        # A descriptor of its own, which the workers inherit, and with it the lock.
        with _open_pid_file(names, os.O_RDWR | os.O_CREAT) as file:
            descriptor = os.dup(file.number)
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
        try:
            with room_for(names.pid_file):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def leads_here(self, names: Names) -> bool:
        """Whether the pid file's name leads to the locked file."""
        try:
            there = names.pid_file.lstat()
        except OSError:
            return False
        ours = os.fstat(self._descriptor)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def renew(self, names: Names) -> None:
        """Makes the file again after it was removed, and takes the locks on the new one.

        Raises what `acquire` raises; then the lock on the old file stays.
        """
        new = self.acquire(names)
        os.dup2(new._descriptor, self._descriptor, inheritable=False)
        os.close(new._descriptor)
        self.vouch()  # last: closing any descriptor of the file drops this process's record locks

    def vouch(self) -> None:
        """Lets `holder` see that this very process lives, in any pid namespace.

        It takes a record lock beside the flock: workers do not inherit it, and the kernel reports
        its holder's pid in the asking process's pid namespace. It is lost when this process closes
        any descriptor of the file; then `holder` reads the pid in the file.
        """
        with suppress(OSError):  # a group member has locked it: the same as if it were lost
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)

    def release(self) -> None:
        """Releases the lock, unless a worker that inherited it still lives."""
        with suppress(OSError):  # a full disk
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def holder(names: Names) -> int | None:
    """The pid of the process that serves the instance; None if it is not served.

    The pid is that of this process's pid namespace. 0 means that the lock's holder has no pid
    here, or is what a dead server left; see `is_served_unseen`.

    Raises:
        ForeignObject: this user may not look, or there is no directory to look into.
    """
    try:
        file = _open_pid_file(names, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise _not_a_directory(names) from None
    except PermissionError as error:
        if isinstance(error, ForeignObject):
            raise
        raise _not_permitted(names) from None
    with file:
        try:
            # Shared, and only for a moment: a server that starts meanwhile tries again.
            fcntl.flock(file.number, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Unlocked explicitly: a child forked just now would keep the lock with its copy.
            fcntl.flock(file.number, fcntl.LOCK_UN)
        except OSError as error:
            if not is_from_system(error):
                raise
            voucher = _voucher(file.number)
            return _pid_in_file(names, file.number) if voucher is None else voucher
    return None


def is_served_unseen(names: Names) -> bool:
    """Whether a process of another pid namespace, invisible to this one, serves the instance."""
    try:
        file = _open_pid_file(names, os.O_RDONLY)
    except OSError:  # also if it is no plain file
        return False
    with file:
        return _voucher(file.number) == 0


def _voucher(descriptor: int) -> int | None:
    """The pid here of the process that holds the record lock; 0 if none here; None if unlocked."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


def _pid_in_file(names: Names, descriptor: int) -> int:
    """The pid in the file; 0 if there is none, or if that process does not have the file open."""
    pid = _read_pid(descriptor)
    return pid if whereabouts.may_have_open(pid, names.pid_file) else 0


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


def _open_pid_file(names: Names, flags: int) -> Descriptor:
    """Opens it with O_NONBLOCK: a FIFO in its place would make open wait for its other end."""
    not_plain = f"{names.pid_file} is not a plain file; remove it"
    try:
        with room_for(names.pid_file):
            file = Descriptor.open(names.pid_file, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise ForeignObject(not_plain) from None
        raise
    if stat.S_ISREG(os.fstat(file.number).st_mode):
        return file
    file.close()
    raise ForeignObject(not_plain)


def _read_pid(descriptor: int) -> int:
    try:
        return int(os.pread(descriptor, _PID_FILE_BYTES_MAX, 0) or 0)
    except ValueError:
        return 0


def not_served(names: Names, also: str = "") -> ServerUnavailable:
    """The error for an instance that is not served, or not from this runtime directory.

    Args:
        names: the instance's.
        also: continues the sentence that the instance is not served.
    """
    if (found := whereabouts.elsewhere(names)) is not None:
        return ServerUnavailable(
            f"instance {names.name!r} is served by {found.server} from another runtime directory, "
            f"{found.runtime_directory}, not from {names.runtime_directory}; {found.export}"
        )
    if (owner := whereabouts.stranger(names)) is not None:
        return ServerUnavailable(
            f"no kvserve server named {names.name!r} lets this user in: its memory is {owner}'s, "
            "who must start it with --group and a group of yours; or use another --name"
        )
    option = "" if names.name == "default" else f" --name {names.name}"
    return ServerUnavailable(
        f"no kvserve server named {names.name!r} is running{also}; start one: kvserve serve{option}"
    )
