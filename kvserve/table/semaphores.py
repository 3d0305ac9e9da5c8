"""The named semaphores on which writers of a shard sleep: made and unlinked here, by the parent.

They are channels, not locks (see core/acquire.c), so they begin at 0.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

import posix_ipc

from kvserve.errors import ForeignObject
from kvserve.names import Names, semaphore_path
from kvserve.objects import grant, taken_over


def create(names: Names, shards: int, mode: int, group_id: int | None) -> None:
    """Makes one new semaphore a shard; unlink the old ones first.

    Raises:
        ForeignObject: another user's object has the name.
    """
    for shard in range(shards):
        name = names.shard_semaphore(shard)
        with taken_over(name):
            semaphore = posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=mode, initial_value=0)
        semaphore.close()
        # On Linux they are files of this file system; the library gives no descriptor.
        grant(str(semaphore_path(name)), mode, group_id)


def unlink(names: Names, shards: int) -> None:
    """Removes them; those that are not there do not matter.

    Raises:
        ForeignObject: a directory has the name of one.
    """
    for shard in range(shards):
        name = names.shard_semaphore(shard)
        try:
            posix_ipc.unlink_semaphore(name)
        except posix_ipc.ExistentialError:
            continue
        except IsADirectoryError:
            path = semaphore_path(name)
            raise ForeignObject(f"{path} is a directory; remove it: rm -r {path}") from None


@contextlib.contextmanager
def nameless() -> Iterator[str]:
    """Makes a semaphore that no other process knows, to be opened by name within the block."""
    name = f"/kvserve-nameless.{secrets.token_hex(8)}"
    posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=0o600).close()
    try:
        yield name
    finally:
        posix_ipc.unlink_semaphore(name)
