"""Makes sure that only one process serves, or cleans, an instance.

There are two locks, both flocks. The workers inherit them, so they are free only when the last
worker is gone. One is on the pid file, which every kvserve of this runtime directory sees; the
other on the table's segment, since kernel objects' names do not depend on the runtime directory.

Before the table exists, while it is replaced, and after it is removed, there is no second lock.
So a third one is held while kernel objects are made or removed, on a file that exists only then:
else servers of two runtime directories would each remove what the other has just made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from pathlib import Path

from kvserve import whereabouts
from kvserve.errors import AlreadyServed, ForeignObject, ServerError
from kvserve.limits import LEASE_SLOT_PARENT
from kvserve.names import Names, memory_path
from kvserve.objects import unlink_file, user_name
from kvserve.parent.housekeeping import identity
from kvserve.runtime import PidFile, holder, is_served_unseen
from kvserve.table import lease

ORPHANS_SECONDS = 5.0  # a dead parent's workers leave within 2 s
_PASSING_SECONDS = 0.2  # clients take the lock for a moment to see whether it is free
_RETRY_SECONDS = 0.01


def claim(names: Names) -> PidFile:
    """Takes the lock on the pid file, and waits for a dead server's last workers to go.

    Raises:
        AlreadyServed: another live process has it.

    Example:
        >>> import tempfile, pathlib
        >>> names = Names("docs", pathlib.Path(tempfile.mkdtemp()))
        >>> pid_file = claim(names)
        >>> holder(names) == os.getpid()
        True
        >>> unlink_claim(names, pid_file)
    """
    began = time.monotonic()
    while True:
        with contextlib.suppress(AlreadyServed):
            pid_file = _acquire(names)
            # The lock must be ours when seen through the path. It is not if a server that stopped
            # between our open and our lock has unlinked the file.
            if holder(names) == os.getpid():
                pid_file.vouch()  # last: `holder` has closed a descriptor of the file
                return pid_file
            pid_file.release()
        waited = time.monotonic() - began
        pid = holder(names)
        if pid and is_alive(pid) and waited >= _PASSING_SECONDS:
            raise AlreadyServed(
                f"instance {names.name!r} is already served by pid {pid}; "
                f"choose another --name, or stop it: kill {pid}"
            )
        if waited >= _PASSING_SECONDS and is_served_unseen(names):
            raise _served_unseen(names)
        if waited >= ORPHANS_SECONDS:
            if not (pids := whereabouts.openers(names.pid_file)):
                raise _served_unseen(names)
            raise AlreadyServed(
                f"the server of instance {names.name!r} is gone, but a worker of it still runs, "
                f"pid {', '.join(map(str, pids))}; end it: fuser -k {names.pid_file}"
            )
        time.sleep(_RETRY_SECONDS)


def _served_unseen(names: Names) -> AlreadyServed:
    return AlreadyServed(
        f"instance {names.name!r} is already served by a process that is not to be seen here: of "
        "another pid namespace, as a container has one; choose another --name, or stop it there"
    )


def _acquire(names: Names) -> PidFile:
    try:
        return PidFile.acquire(names)
    except FileNotFoundError:
        # `kvserve clean`, or a server that was refused, removed the directory since we saw it.
        raise ServerError(
            f"another process has just removed {names.runtime_directory}; try again"
        ) from None


def unlink_claim(names: Names, pid_file: PidFile) -> None:
    """Removes the pid file, unless its name leads to another one by now, then unlocks it."""
    if pid_file.leads_here(names):
        unlink_file(names.pid_file)
    pid_file.release()


def is_alive(pid: int) -> bool:
    """Whether a process of this pid exists, in this pid namespace."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _not_ours(path: Path, owner: int) -> ForeignObject:
    if owner == os.geteuid():
        return ForeignObject(f"{path} is not plain memory; remove it")
    return ForeignObject(
        f"{path} belongs to {user_name(owner)}; use another --name, or run this as that user"
    )


class MakingLock:
    """The lock under which the kernel objects of a name are made and removed.

    Args:
        names: the instance's.

    Example:
        >>> import pathlib
        >>> lock = MakingLock(Names("docs", pathlib.Path("/run/kvserve/docs")))
        >>> lock.take(), lock.release()
        (True, None)
    """

    def __init__(self, names: Names) -> None:
        self._path = names.making_lock
        self._descriptor: int | None = None

    def take(self, patience_seconds: float = ORPHANS_SECONDS) -> bool:
        """Takes the lock, and waits a while for it; returns whether it was free in time.

        Raises:
            ForeignObject: its name is taken by something else.
        """
        give_up = time.monotonic() + patience_seconds
        while not self._try_take():
            if time.monotonic() >= give_up:
                return False
            time.sleep(_RETRY_SECONDS)
        return True

    def _try_take(self) -> bool:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(self._path, flags, 0o600)
        except (PermissionError, IsADirectoryError, FileExistsError):
            raise _not_ours(self._path, self._path.lstat().st_uid) from None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
            raise _not_ours(self._path, self._path.lstat().st_uid) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise _not_ours(self._path, status.st_uid)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Not if its last holder removed it between our open and our lock.
                if identity(self._path) == (status.st_dev, status.st_ino):
                    self._descriptor, descriptor = descriptor, -1
                    return True
            return False
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def release(self) -> None:
        """Removes the file and releases the lock; does nothing if it is not held."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            os.close(descriptor)

    def in_use(self, names: Names) -> AlreadyServed:
        """The error for a lock that was not free in time."""
        return AlreadyServed(
            f"another process is just starting, stopping or cleaning instance {names.name!r}; "
            f"try again, or see which: fuser {self._path}"
        )


def _served_elsewhere(names: Names) -> AlreadyServed:
    found = whereabouts.elsewhere(names)
    if found is None:
        return AlreadyServed(
            f"instance {names.name!r} is already served from another runtime directory "
            f"than {names.runtime_directory}, or being verified; "
            "choose another --name, or set KVSERVE_RUNTIME_DIR to its server's"
        )
    return AlreadyServed(
        f"instance {names.name!r} is already served by {found.server} from another runtime "
        f"directory than {names.runtime_directory}; choose another --name, or to use that one "
        f"of {found.runtime_directory}: {found.export}"
    )


class SegmentLock:
    """The lock on the table's segment, against servers of other runtime directories.

    Args:
        names: the instance's.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Locks the segment; returns whether there is one.

        Raises:
            AlreadyServed: another process has it, for longer than a client's look takes.
            ForeignObject: it is another user's.
        """
        began = time.monotonic()
        while True:
            try:
                if not self._try_take():
                    return False
                # Like the pid file, it may have been unlinked between our open and our lock.
                if self._leads_here():
                    return True
                self.release()
            except AlreadyServed:
                # The pid file may have been removed while they served, so it proves nothing.
                patience = _PASSING_SECONDS if self._has_parent() else ORPHANS_SECONDS
                if time.monotonic() - began >= patience:
                    raise
            time.sleep(_RETRY_SECONDS)

    def _has_parent(self) -> bool:
        """Whether the parent of the lock's holders lives, and not only its last workers."""
        try:
            return bool(lease.holders(self._names.lease_file, [LEASE_SLOT_PARENT]))
        except (FileNotFoundError, ForeignObject):
            return True  # unknown, so assume that it lives

    def _try_take(self) -> bool:
        path = memory_path(self._names.table)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            return False
        except OSError:
            raise _not_ours(path, path.lstat().st_uid) from None
        try:
            owner = os.fstat(descriptor).st_uid
            if owner != os.geteuid():
                raise _not_ours(path, owner)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise _served_elsewhere(self._names) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    @property
    def is_superseded(self) -> bool:
        """Whether the name leads to another segment now: then its objects are not ours."""
        return self._descriptor is not None and self._leads_here() is False

    def _leads_here(self) -> bool | None:
        """Whether the name leads to the segment that is locked; None if it leads nowhere."""
        assert self._descriptor is not None
        try:
            there = memory_path(self._names.table).lstat()
        except FileNotFoundError:
            return None
        ours = os.fstat(self._descriptor)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def release(self) -> None:
        """Releases the lock. The memory of a segment that was unlinked is freed only then."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
