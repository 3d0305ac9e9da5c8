"""What all kinds of kernel objects share: owners, modes, locks and the removal of names."""

from __future__ import annotations

import fcntl
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvserve import native
from kvserve.errors import ForeignObject

native.load("posix_ipc")

import posix_ipc  # noqa: E402 - only now is it known to be there


def grant(file: int | str, mode: int, group_id: int | None) -> None:
    """Gives an object exactly this mode, whatever the umask was, and its group.

    Args:
        file: its descriptor or its path.
        mode: permission bits.
        group_id: the group; None for the process's.
    """
    if group_id is not None:
        os.chown(file, -1, group_id)
    os.chmod(file, mode)  # noqa: PTH101 - it may be a descriptor


def unlink_file(path: Path) -> bool:
    """Removes the name of a file, a link or anything else; returns whether it existed.

    Raises:
        ForeignObject: it is a directory, or this user may not remove it.
    """
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if path.is_dir() and not path.is_symlink():
            raise ForeignObject(f"{path} is a directory; remove it: rm -r {path}") from None
        raise ForeignObject(f"{path} cannot be removed: {error.strerror}") from None
    return True


def is_locked(path: Path) -> bool:
    """Whether a process holds the file's flock; False where there is no plain file.

    Raises:
        PermissionError: this user may not look.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError:
        raise
    except OSError:
        return False
    try:
        # Shared, for a moment: a server that starts just then tries again.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_from_system(error: OSError) -> bool:
    """Whether the error came from the system, and so has a number.

    A signal handler may raise TimeoutError, which is an OSError without one.

    Example:
        >>> is_from_system(FileNotFoundError(2, "no such file")), is_from_system(TimeoutError())
        (True, False)
    """
    return error.errno is not None


def user_name(uid: int) -> str:
    """The name of a user, or `uid 12345` if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def as_user(uid: int, command: str) -> str:
    """The command line that runs a command as another user.

    Example:
        >>> as_user(0, "kvserve doctor"), as_user(123456789, "kvserve doctor")
        ('sudo -u root kvserve doctor', "sudo -u '#123456789' kvserve doctor")
    """
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"'#{uid}'"
    return f"sudo -u {name} {command}"


@contextmanager
def taken_over(name: str) -> Iterator[None]:
    """Turns the failure to use an object because its name is another user's into our error."""
    try:
        yield
    except (posix_ipc.ExistentialError, posix_ipc.PermissionsError) as error:
        raise ForeignObject(
            f"the kernel object {name} is somebody else's: {error}; use another --name"
        ) from None
