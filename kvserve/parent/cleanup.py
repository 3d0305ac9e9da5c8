"""`kvserve clean`: removes everything of an instance that is not served, its kept table too.

The manifest may be lost, or be an older server's, and message queues cannot be listed where
/dev/mqueue is not mounted. So it tries every name that the instance could have.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from kvserve import limits
from kvserve.errors import AlreadyServed, ForeignObject
from kvserve.live import feed_segment, settings
from kvserve.names import Names, semaphore_path
from kvserve.objects import as_user, taken_over, unlink_file, user_name
from kvserve.parent.housekeeping import remove_all_fifos, remove_all_notes
from kvserve.parent.instance_lock import MakingLock, SegmentLock, claim, is_alive, unlink_claim
from kvserve.runtime import holder, prepared_directory, remove_directory, verify_directory
from kvserve.table import semaphores
from kvserve.table.table import remove
from kvserve.transport.mqueue import unlink_queue


def clean(names: Names) -> list[str]:
    """Removes what a dead or stopped instance left.

    Args:
        names: the instance's.

    Returns:
        The names of the kernel objects and the paths of the files that were removed.

    Raises:
        AlreadyServed: it is served.
        ForeignObject: an object of it belongs to another user.

    Example:
        >>> import tempfile, pathlib
        >>> clean(Names("docs-nobody", pathlib.Path(tempfile.mkdtemp()) / "docs-nobody"))
        []
    """
    _refuse_another_users(names)
    _refuse_if_served(names)
    is_new = not names.runtime_directory.exists()
    if not is_new:
        verify_directory(names)
    with ExitStack() as undo:
        if is_new:  # only to hold the lock; kernel objects may remain without it
            undo.enter_context(prepared_directory(names, None, lasting=False))
        pid_file_was_there = names.pid_file.exists()
        pid_file = claim(names)
        undo.callback(unlink_claim, names, pid_file)
        making = MakingLock(names)
        if not making.take():
            raise making.in_use(names)
        undo.callback(making.release)
        segment_lock = SegmentLock(names)
        undo.callback(segment_lock.release)
        segment_lock.take()
        removed = remove(names) + _remove_semaphores(names) + _remove_queues(names)
        removed += settings.remove(names) + feed_segment.remove(names)
        removed += remove_all_fifos(names) + remove_all_notes(names) + _remove_files(names)
    if pid_file_was_there:
        removed.append(str(names.pid_file))
    if not is_new and remove_directory(names):
        removed.append(str(names.runtime_directory))
    return removed


def _refuse_another_users(names: Names) -> None:
    directory = names.runtime_directory
    try:
        owner = directory.lstat().st_uid
    except OSError:
        return  # there is none, or the code that opens it reports why it cannot
    if owner != os.geteuid():
        command = as_user(owner, f"kvserve clean --name {names.name}")
        raise ForeignObject(f"{directory} belongs to {user_name(owner)}, who can run: {command}")


def _refuse_if_served(names: Names) -> None:
    pid = holder(names)
    if pid and is_alive(pid):
        raise AlreadyServed(
            f"instance {names.name!r} is served by pid {pid}; stop it first: kill {pid}"
        )


def _remove_semaphores(names: Names) -> list[str]:
    every = [names.shard_semaphore(shard) for shard in range(limits.SHARDS_MAX)]
    there = [name for name in every if semaphore_path(name).exists()]
    with taken_over(every[0]):
        semaphores.unlink(names, limits.SHARDS_MAX)
    return there


def _remove_queues(names: Names) -> list[str]:
    every = [names.worker_queue(worker) for worker in range(limits.WORKERS_MAX)]
    removed = []
    for name in every:
        with taken_over(name):
            if unlink_queue(name):
                removed.append(name)
    return removed


def _remove_files(names: Names) -> list[str]:
    files = [names.manifest, names.manifest.with_suffix(".new"), names.log_file]
    return [str(file) for file in files if unlink_file(file)]
