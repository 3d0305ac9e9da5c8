"""Reading the table: which segments to attach, and when to attach their successors."""

from __future__ import annotations

import mmap
import os
import weakref
from threading import TIMEOUT_MAX, Lock
from typing import TYPE_CHECKING, Literal

from kvserve import runtime
from kvserve.client import forks
from kvserve.client.notes import Notes
from kvserve.client.values import NATIVE, Values
from kvserve.descriptors import LockGuard
from kvserve.errors import ClientClosed, ServerUnavailable
from kvserve.limits import VALUE_BYTES_MAX
from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.table import segment
from kvserve.table._core import Reader

if TYPE_CHECKING:  # `kvserve get` has no time for what it imports
    from kvserve.client.calls.rules import Rules

Read = Literal["direct", "worker"]


def require_server(names: Names) -> Manifest:
    """The manifest of a running instance.

    Raises:
        ServerUnavailable: no server serves it.
        ForeignObject: its runtime directory is another user's.
    """
    runtime.verify_directory(names)
    if runtime.holder(names) is None:
        raise runtime.not_served(names)
    return Manifest.read(names)


# What a client knows of an instance that it has not found yet. It is no manifest of a server:
# another instance id, so that what is found is attached, and no shards, so that a scan is empty.
UNSEEN = Manifest(
    instance_id="",
    pid=0,
    protocol_version=0,
    layout_version=0,
    workers=1,
    writers=0,
    shards=0,
    queue_message_bytes=0,
    queue_depth=0,
    value_bytes_max=VALUE_BYTES_MAX,
    group_id=None,
    memory_objects={},
    semaphores=[],
    queues=[],
)


class Ending:
    """Whether a client was closed, for objects that must not keep the client itself alive."""

    has_come = False


class TableFollower(Reader):
    """A reader of an instance's table, mapped read-only, that follows it from server to server.

    Reading goes on while no server runs, from the kept table. When the table is given up (`serve
    --fresh`, `clean`), reads return ASK_WORKER until `_follow_table` finds its successor.

    Args:
        names: the instance's.
        read: `direct` reads here; `worker` only finds keys' shards here.
        values: how what is read becomes values.
        is_lazy: look for the table at the first `_follow_table` only.
    """

    def __init__(
        self,
        names: Names,
        read: Read = "direct",
        values: Values = NATIVE,
        *,
        is_lazy: bool = False,
    ) -> None:
        self._use_values(values.encode, values.decode, values.as_is_bytes_max)
        self._names = names
        self._reads_direct = read == "direct"
        self._attaching = Lock()
        self._ending = Ending()
        self._maps: tuple[mmap.mmap, ...] = ()
        self._notes: Notes | None = None  # of what is read, if the server is another user's
        self._manifest = UNSEEN
        if not is_lazy:
            with runtime.named_errors():
                self._manifest = require_server(names)
                self._attach_table()
        _all_followers.add(self)

    def _fit_keys_by(self, rules: Rules) -> None:
        """Reads by the rules what a key that does not fit is replaced by."""
        if rules.long_keys == "hash":
            self._set_fitting(rules.key)

    def _attach_table(self) -> None:
        """Attaches the table of the running instance, in place of the one attached before.

        Raises:
            ServerUnavailable: there is none.
            ForeignObject: its objects are not its owner's, or not whole.
        """
        owner_uid = runtime.verify_directory(self._names)
        manifest = Manifest.read(self._names)
        is_ours = owner_uid == os.geteuid()
        maps: list[mmap.mmap] = []
        try:
            maps.append(segment.attach(self._names.table, owner_uid, writable=False))
            maps.append(segment.attach(self._names.hints, owner_uid, writable=is_ours))
            notes = None if is_ours else Notes(self._names)
            told_in = notes.memory if notes else None
            self._attach(maps[0], maps[1], segment.boot_id(), self._reads_direct, told_in)
        except FileNotFoundError as error:
            if isinstance(error, ServerUnavailable):
                raise
            raise self._out_of_sight() from None
        for memory in self._maps:
            memory.close()
        if self._notes is not None:
            self._notes.close()
        self._notes = notes
        self._maps = (*maps, notes.memory) if notes else tuple(maps)
        self._manifest = manifest

    def _on_full_notes(self) -> None:
        """Looks whether the notes are still read. Called inside a read, so it never waits."""
        with LockGuard(self._attaching, 0) as is_ours:
            if is_ours:
                self._replace_lost_notes()

    def _replace_lost_notes(self) -> None:
        if self._notes is not None and self._notes.is_lost:
            before = self._notes.renew()
            self._write_notes(self._notes.memory)
            before.close()
            self._maps = (*self._maps[:2], self._notes.memory)

    def _out_of_sight(self) -> ServerUnavailable:
        if runtime.holder(self._names) is None:
            return runtime.not_served(self._names)
        return ServerUnavailable(
            f"{self._names.name!r} is served, but its shared memory is not in sight: its server is "
            "just starting or stopping, or has another /dev/shm, as a container has; share it, see "
            "docker run --ipc"
        )

    def _follow_table(self) -> None:
        """Attaches the successor of a table that was given up, or the first one.

        Raises:
            ClientClosed, ServerUnavailable, ForeignObject.
        """
        if self._closed:
            raise ClientClosed("this client was closed")
        if self._retired or not self._maps:
            self._on_manifest(require_server(self._names))

    def _on_manifest(self, manifest: Manifest) -> None:
        """Called when a new session was opened: attaches the table if it is another one now."""
        forks.notice()
        with LockGuard(self._attaching, TIMEOUT_MAX):
            if not self._closed and (
                self._retired or manifest.instance_id != self._manifest.instance_id
            ):
                self._attach_table()
            self._replace_lost_notes()  # a server that stops removes them

    @property
    def _closed(self) -> bool:
        return self._ending.has_come

    def __reduce__(self) -> str:
        raise TypeError("a client cannot be pickled; connect in each process: kvserve.connect()")

    def close(self) -> None:
        """Lets go of the table."""
        forks.notice()
        self._ending.has_come = True  # without the lock: the thread that has it looks again
        with LockGuard(self._attaching, TIMEOUT_MAX):
            self._detach()
            for memory in self._maps:
                memory.close()
            self._maps = ()
            if self._notes is not None:
                self._notes.close()
                self._notes = None


# See forks.py. A lock that another thread held at the fork would stay held.
_all_followers: weakref.WeakSet[TableFollower] = weakref.WeakSet()


def _become_child() -> None:
    for follower in list(_all_followers):
        follower._attaching = Lock()


forks.in_child(_become_child)
