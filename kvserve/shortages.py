"""Finds which limit or resource of the system made something fail, and what fixes it."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvserve.errors import KvserveError, LimitError
from kvserve.names import SHARED_MEMORY

FILE_SIZE_FIX = "ulimit -f unlimited (of a service: LimitFSIZE=infinity)"
ADDRESS_SPACE_FIX = "ulimit -v unlimited (of a service: LimitAS=infinity)"
_MIB = 2**20
# The texts of some errors of posix_ipc, which does not expose their numbers.
_OF_POSIX_IPC = {
    "This process already has the maximum number of files open": errno.EMFILE,
    "The system limit on the total number of open files has been reached": errno.ENFILE,
    "Insufficient memory": errno.ENOMEM,
    "Not enough memory": errno.ENOMEM,
}


def shortage(error: BaseException) -> str | None:
    """What the system lacks, if that is why something failed, and what fixes it; else None.

    Args:
        error: as Python raised it; also that of an import, which does not say why a file cannot
            be opened.

    Example:
        >>> shortage(OSError(errno.EFBIG, "File too large")) is None  # where there is no limit
        True
        >>> shortage(OSError(errno.ENFILE, "Too many open files in system"))
        'the whole system has too many files open; raise the limit: sysctl fs.file-max'
        >>> shortage(ValueError()) is None
        True
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and isinstance(error, OSError):
        number = _OF_POSIX_IPC.get(str(error))
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    if isinstance(error, ImportError):
        number = _why_nothing_opens() or (errno.ENOMEM if _is_limited(resource.RLIMIT_AS) else None)
    if number == errno.EMFILE:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"too many files are open; raise the limit: ulimit -n {max(1024, 2 * soft)}"
    if number == errno.ENFILE:
        return "the whole system has too many files open; raise the limit: sysctl fs.file-max"
    if number == errno.ENOMEM:
        if _is_limited(resource.RLIMIT_AS):
            return (
                "the address space of a process is limited to less; raise it: ulimit -v unlimited"
            )
        return "there is not enough memory; end other processes, or add memory"
    if _is_start_refused(error):
        return "no more processes and threads may be started; raise the limit: ulimit -u"
    if number == errno.EFBIG and _is_limited(resource.RLIMIT_FSIZE):
        return f"a file may not become so large; raise the limit: {FILE_SIZE_FIX}"
    return None


def shared_memory_refusal(
    error: OSError, size_bytes: int, directory: Path = SHARED_MEMORY
) -> str | None:
    """Why shared memory of this size is not available, and what fixes it; None for other errors.

    Args:
        error: the system's, when the memory was made, filled or mapped.
        size_bytes: how much was wanted.
        directory: where the memory is.
    """
    mebibytes = size_bytes // _MIB + 1
    if error.errno == errno.ENOSPC:
        if not os.statvfs(directory).f_favail:
            return (
                f"{directory} may have no more files; let it: "
                f"mount -o remount,nr_inodes=0 {directory}"
            )
        return (
            f"{directory} has no room for {mebibytes} MiB; choose a smaller --memory, or make it "
            f"larger: mount -o remount,size={2 * mebibytes}m {directory} "
            f"(in Docker: docker run --shm-size={2 * mebibytes}m)"
        )
    if error.errno == errno.EDQUOT:
        return (
            f"the quota of this user in {directory} has no room for {mebibytes} MiB; "
            "choose a smaller --memory, or raise it: setquota"
        )
    if text := shortage(error):
        return f"{mebibytes} MiB of shared memory are not to be had: {text}"
    return None


def take_all_descriptors() -> None:
    """Raises the soft limit of open files to the hard one, for this process and its children."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turns what a file system refuses to a block of code that writes our files into LimitError.

    Raises:
        LimitError: the file system is full or read-only, or the user's quota is used up.
    """
    try:
        yield
    except KvserveError:
        raise
    except OSError as error:
        why = {
            errno.ENOSPC: "its file system is full",
            errno.EDQUOT: "the quota of this user is used up",
            errno.EROFS: "its file system is read-only",
        }.get(error.errno or 0)
        if why is None:
            raise
        raise LimitError(
            f"{path} cannot be written: {why}; fix that, or set KVSERVE_RUNTIME_DIR to a "
            "directory elsewhere"
        ) from None


def refusal(error: BaseException) -> str | None:
    """A sentence on what the system refused; None if the error is no refusal of the system."""
    if (text := shortage(error)) or not isinstance(error, OSError):
        return text
    where = f"{error.filename}: " if error.filename else "the system refused: "
    return f"{where}{error.strerror or error}"


def _is_start_refused(error: BaseException) -> bool:
    if isinstance(error, BlockingIOError):  # of a fork; a full pipe's has characters_written
        return not hasattr(error, "characters_written")
    return isinstance(error, RuntimeError) and "start new thread" in str(error)


def _is_limited(which: int) -> bool:
    return resource.getrlimit(which)[0] != resource.RLIM_INFINITY


def _why_nothing_opens() -> int | None:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno
    return None
