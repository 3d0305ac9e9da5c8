"""A process's seat among the trusted writers of an instance: one for all clients of the process.

One, because record locks belong to the process: to close any descriptor of the lease file drops
them all. A seat is a slot of the lease file, a ring of the change feed, and the table mapped for
writing. It is of one run of a server: when the settings page says that this has ended, the seat is
given up, and the next write looks for another one.

What a seat promises the others is that its process changes the table only while it holds the
slot's record lock, and tells of it in that slot's ring alone. A forked child has not got the lock,
so it finds its seat given up, and takes one of its own.
"""

from __future__ import annotations

import atexit
import os
import weakref
from threading import Lock

from kvserve import runtime
from kvserve.client.direct import require_server
from kvserve.config import Config
from kvserve.errors import ServerBusy, ServerUnavailable, WriteRefused
from kvserve.limits import LEASE_SLOT_WRITER_FIRST
from kvserve.live import feed_segment, settings
from kvserve.live.applying import from_page
from kvserve.names import Names
from kvserve.objects import user_name
from kvserve.runtime import Manifest
from kvserve.table._core import Writer
from kvserve.table.lease import Lease
from kvserve.table.table import attach_maps

_ATTEMPTS = 3  # each repeated only because a server has ended or begun meanwhile
_ENTER_SECONDS = 1.0


class Seat(Writer):
    """What a process writes through; taken by `enter`, left with its last client.

    Args:
        names: the instance's.
        owner_uid: who owns it.
        page: the settings of the server's run.

    Raises:
        FileNotFoundError, ServerUnavailable: the server has just ended.
        ForeignObject: something of the instance is not its owner's.
        WriteRefused: the server lets nobody write into its table.
        ServerBusy: as many processes as it lets do so already.
    """

    _lease: Lease | None = None

    def __init__(self, names: Names, owner_uid: int, page: settings.SettingsPage) -> None:
        self.page = page
        self._clients: weakref.WeakSet[object] = weakref.WeakSet()
        self._pid = os.getpid()
        config = from_page(page.read().values)
        _require_leave(names, config)
        manifest = Manifest.read(names)
        self._lease = lease = _take_slot(names, config, owner_uid)
        try:
            attach_maps(self, names, owner_uid)
            every = [names.shard_semaphore(shard) for shard in range(manifest.shards)]
            self._join(lease.descriptor, lease.slot, every)
            self.recover(lease.slot)  # what a predecessor held when it was killed
            if names.feed in manifest.memory_objects:
                ring = manifest.workers + lease.slot - LEASE_SLOT_WRITER_FIRST
                feed_segment.produce(names, self, ring, owner_uid)
        except BaseException:
            self.leave()
            raise

    @property
    def is_taken(self) -> bool:
        """Whether this process may write here: it has not left, and the server has not ended."""
        return self._holds_lease and not self.page.is_retired

    def admit(self, client: object) -> None:
        """Stays at least until this client goes, or is no more."""
        self._clients.add(client)

    def dismiss(self, client: object) -> None:
        """Leaves with the last client."""
        self._clients.discard(client)
        if not self._clients:
            self.leave()

    def leave(self) -> None:
        """Gives the slot and the ring to whoever comes next. Twice does no harm.

        In a forked child it only lets go of them: they are the parent's, who goes on.
        """
        lease, self._lease = self._lease, None
        if lease is not None:
            self._give_lease_up(told_all=os.getpid() == self._pid)
            lease.leave()

    def __del__(self) -> None:
        self.leave()


def enter(names: Names) -> Seat:
    """This process's seat, taken now unless it has one.

    Raises:
        ServerUnavailable: nobody serves.
        WriteRefused: this process may not write into the table.
        ServerBusy: as many processes do so already as may.
        ForeignObject: something of the instance is not its owner's.
    """
    if not _entering.acquire(timeout=_ENTER_SECONDS):
        raise ServerBusy("another thread of this process is just connecting; try again")
    try:
        seat = _seats.get(names.name)
        if seat is not None and seat.is_taken:
            return seat
        if seat is not None:
            seat.leave()  # first, for it would take the new one's lock along
        with runtime.named_errors():
            seat = _take(names)
        _seats[names.name] = seat
        return seat
    finally:
        _entering.release()


def _take(names: Names) -> Seat:
    for _ in range(_ATTEMPTS):
        require_server(names)
        owner_uid = runtime.verify_directory(names)
        if os.geteuid() not in (owner_uid, 0):
            raise WriteRefused(
                f"only {user_name(owner_uid)}, whose server this is, and root may write into the "
                f"table of {names.name!r} themselves; leave out write='direct'"
            )
        try:
            seat = Seat(names, owner_uid, settings.attach(names, owner_uid))
        except FileNotFoundError:  # of a server that is just starting or stopping
            continue
        if seat.is_taken:  # so all of it was of one run
            return seat
        seat.leave()
    raise ServerUnavailable(f"the server of {names.name!r} is just starting or stopping; try again")


def _require_leave(names: Names, config: Config) -> None:
    if config.store != "none":
        raise WriteRefused(
            f"{names.name!r} has a store behind its table, which only the workers write; "
            "leave out write='direct'"
        )
    if not config.writers:
        raise WriteRefused(
            f"the server {names.name!r} lets nobody else write into its table; start it with as "
            "many writers as there shall be: kvserve serve --writers N"
        )


def _take_slot(names: Names, config: Config, owner_uid: int) -> Lease:
    slots = range(LEASE_SLOT_WRITER_FIRST, LEASE_SLOT_WRITER_FIRST + config.writers)
    try:
        return Lease.join(names.lease_file, *slots, owner_uid=owner_uid)
    except ServerBusy:
        raise ServerBusy(
            f"{config.writers} processes write into the table of {names.name!r} already, as many "
            f"as may; for more: kvserve serve --writers {2 * config.writers}"
        ) from None


# By the instance's name, of which all names of its kernel objects are made. A process-wide fact in
# process-wide state: see above.
_seats: weakref.WeakValueDictionary[str, Seat] = weakref.WeakValueDictionary()
_entering = Lock()


def _leave_all() -> None:
    for seat in list(_seats.values()):
        seat.leave()


def _become_child() -> None:
    _leave_all()
    if _entering.locked():  # by a thread that the child has not got
        _entering.release()


os.register_at_fork(after_in_child=_become_child)
atexit.register(_leave_all)  # else whoever watches would be told of a loss
