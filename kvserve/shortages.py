"""What the system has not enough of, when something failed for that, and what mends it."""

from __future__ import annotations

import errno
import os
import resource


def shortage(error: BaseException) -> str | None:
    """What the system has not enough of, if that is why something failed, and what mends it.

    Args:
        error: as Python raised it; one of an import, too, which does not say why a file cannot be
            opened.

    Example:
        >>> shortage(OSError(errno.EMFILE, "Too many open files"))
        'too many files are open; raise the limit: ulimit -n 1024'
        >>> shortage(ValueError()) is None
        True
    """
    number = error.errno if isinstance(error, OSError) else None
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
        return "a file may not become so large; raise the limit: ulimit -f unlimited"
    return None


def _is_start_refused(error: BaseException) -> bool:
    if isinstance(error, BlockingIOError):  # of a fork, not of a full pipe, which tells how far
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
