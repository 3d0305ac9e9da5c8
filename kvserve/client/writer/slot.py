"""A process's slot among the trusted writers of an instance: one for all clients of the process.

One, because record locks belong to the process: closing any descriptor of the lease file drops them
all. A slot is a slot of the lease file, a ring of the change feed, and the table mapped for
writing. It belongs to one run of a server: when the settings page says that the run has ended, the
slot is given up, and the next write looks for another one.

Invariant: a process writes only while it holds its slot's record lock, and reports its changes only
in that slot's ring. A forked child does not have the lock, so it finds its slot given up, and takes
one of its own.

So slots are taken and left one after the other, under one lock: a descriptor that is closed late
would drop the record lock that the next slot already has. Clients may go at any moment, also when
the garbage collector finds them while this thread has that lock; the thread that has it leaves the
slots without clients once it has released it.
"""

from __future__ import annotations

import atexit
import errno
import os
import time
import weakref
from contextlib import suppress
from threading import Lock
from typing import Protocol

from kvserve import runtime
from kvserve.client import forks
from kvserve.client.follower import require_server
from kvserve.config import Config
from kvserve.descriptors import LockGuard
from kvserve.errors import ServerBusy, ServerUnavailable, WriteRefused
from kvserve.limits import LEASE_SLOT_WRITER_FIRST
from kvserve.live import feed_segment, settings
from kvserve.live.applying import from_page
from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.objects import user_name
from kvserve.table._core import Writer
from kvserve.table.lease import Lease
from kvserve.table.table import attach_maps

_ATTEMPTS = 3  # each repeated only because a server has ended or begun meanwhile
_ENTER_SECONDS = 1.0
_MOURNED_SECONDS = 0.01  # the parent has a killed writer's slot while it reports the death


class SlotUser(Protocol):
    """A client that may need a slot."""

    needs_slot: bool


class WriterSlot(Writer):
    """The slot that a process writes through; taken by `enter`, left with its last client.

    Args:
        names: the instance's.
        owner_uid: the user that owns it.
        page: the settings of the server's run.

    Raises:
        FileNotFoundError, ServerUnavailable: the server has just ended, or is still starting.
        ForeignObject: something of the instance is not its owner's.
        WriteRefused: the server lets no process write into its table.
        ServerBusy: as many processes as it allows do so already.
    """

    _lease: Lease | None = None

    def __init__(self, names: Names, owner_uid: int, page: settings.SettingsPage) -> None:
        self.page = page
        self._clients: set[weakref.ref[SlotUser]] = set()
        self._pid = os.getpid()
        config = from_page(page.read().values)
        _require_leave(names, config)
        manifest = Manifest.read(names)
        self._lease = lease = _take_lease(names, config, owner_uid)
        try:
            attach_maps(self, names, owner_uid)
            feed = None
            if names.feed in manifest.memory_objects:
                feed = feed_segment.attach(names, owner_uid, writable=True)
            if page.is_retired:  # what was attached may be the next server's: touch nothing of it
                raise FileNotFoundError(errno.ENOENT, "the server has just ended", names.name)
            every = [names.shard_semaphore(shard) for shard in range(manifest.shards)]
            self._join(lease.file, lease.slot, every)
            self.recover(lease.slot)  # what a predecessor held when it was killed
            if feed is not None:
                self._attach_feed(feed, manifest.workers + lease.slot - LEASE_SLOT_WRITER_FIRST)
        except BaseException:
            self.leave()
            raise

    @property
    def is_taken(self) -> bool:
        """Whether this process may write here: it has not left, and the server has not ended."""
        return self._holds_lease and not self.page.is_retired

    @property
    def has_clients(self) -> bool:
        """Whether any client needs it; `leave_unused` leaves it when none does."""
        clients = [client() for client in list(self._clients)]
        return any(client is not None and client.needs_slot for client in clients)

    def admit(self, client: SlotUser) -> None:
        """Keeps the slot at least until this client no longer needs it, or is gone."""
        self._clients.add(weakref.ref(client, self._forget))

    def _forget(self, client: weakref.ref[SlotUser]) -> None:
        self._clients.discard(client)
        leave_unused()

    def leave(self) -> None:
        """Frees the slot and the ring for the next process. Twice does no harm.

        In a forked child it only lets go of them: the parent goes on using them.
        """
        lease, self._lease = self._lease, None
        if lease is not None:
            self._give_lease_up(told_all=os.getpid() == self._pid)
            lease.leave()


class _WriterSlots:
    """All slots of this process, by the instance's name, which names all its kernel objects."""

    def __init__(self) -> None:
        self._taken: dict[str, WriterSlot] = {}
        self._changing = Lock()

    def enter(self, names: Names, client: SlotUser) -> WriterSlot:
        """This process's slot, taken now unless it has one; it stays while the client needs it.

        Raises:
            ServerUnavailable: no server runs.
            WriteRefused: this process may not write into the table.
            ServerBusy: as many processes as may do so already.
            ForeignObject: something of the instance is not its owner's.
        """
        forks.notice()
        try:
            with LockGuard(self._changing, _ENTER_SECONDS) as is_ours:
                if not is_ours:
                    raise ServerBusy("another thread of this process is just connecting; try again")
                slot = self._taken.get(names.name)
                if slot is None or not slot.is_taken:
                    if slot is not None:
                        slot.leave()  # first, as later it would drop the new one's lock
                    with runtime.named_errors():
                        slot = self._taken[names.name] = _take(names)
                slot.admit(client)
                return slot
        finally:
            self.leave_unused()

    def leave_unused(self) -> None:
        """Leaves slots without clients; if another thread is changing slots, that thread will."""
        while not all(slot.has_clients for slot in list(self._taken.values())):
            with LockGuard(self._changing, 0) as is_ours:
                if not is_ours:
                    return
                for name, slot in list(self._taken.items()):
                    if not slot.has_clients:
                        slot.leave()
                        del self._taken[name]

    def end(self) -> None:
        """Leaves all when the process ends; else watchers would see a loss."""
        forks.notice()
        with LockGuard(self._changing, _ENTER_SECONDS) as is_ours:
            if is_ours:
                self._leave_all()

    def become_child(self) -> None:
        """Lets go of the parent's slots in a forked child."""
        self._changing = Lock()  # the other may be held by a thread that the child does not have
        self._leave_all()

    def _leave_all(self) -> None:
        while self._taken:
            self._taken.popitem()[1].leave()


def _take(names: Names) -> WriterSlot:
    for _ in range(_ATTEMPTS):
        require_server(names)
        owner_uid = runtime.verify_directory(names)
        if os.geteuid() not in (owner_uid, 0):
            raise WriteRefused(
                f"only {user_name(owner_uid)}, whose server this is, and root may write into the "
                f"table of {names.name!r} themselves; leave out write='direct'"
            )
        with suppress(FileNotFoundError):  # of a server that is just starting or stopping
            return WriterSlot(names, owner_uid, settings.attach(names, owner_uid))
    raise ServerUnavailable(f"the server of {names.name!r} is just starting or stopping; try again")


def _require_leave(names: Names, config: Config) -> None:
    if config.store != "none":
        raise WriteRefused(
            f"{names.name!r} has a store behind its table, which only the workers write; "
            "leave out write='direct'"
        )
    if not config.writers:
        raise WriteRefused(
            f"the server {names.name!r} lets no other process write into its table; start it with "
            "as many writers as there shall be: kvserve serve --writers N"
        )


def _take_lease(names: Names, config: Config, owner_uid: int) -> Lease:
    slots = range(LEASE_SLOT_WRITER_FIRST, LEASE_SLOT_WRITER_FIRST + config.writers)
    with suppress(ServerBusy):
        return Lease.join(names.lease_file, *slots, owner_uid=owner_uid)
    time.sleep(_MOURNED_SECONDS)
    try:
        return Lease.join(names.lease_file, *slots, owner_uid=owner_uid)
    except ServerBusy:
        raise ServerBusy(
            f"{config.writers} processes write into the table of {names.name!r} already, as many "
            f"as may; for more: kvserve serve --writers {2 * config.writers}"
        ) from None


# A process-wide fact in process-wide state: see above.
_slots = _WriterSlots()
enter = _slots.enter
leave_unused = _slots.leave_unused

forks.in_child(_slots.become_child)
atexit.register(_slots.end)
