"""Makes all that an instance consists of, in order, and takes it down in reverse.

The order has reasons. The stale manifest is removed first, so that no client trusts what a dead
server left. Queues come before the table, because they are most often what does not fit, and a
failed start must not cost the kept table. The new manifest comes last: its readers may use all
that it names.
"""

from __future__ import annotations

import dataclasses
import grp
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from kvserve import limits
from kvserve.config import Config
from kvserve.errors import ConfigError
from kvserve.live import feed_segment, settings
from kvserve.live.applying import to_page
from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.objects import taken_over, unlink_file
from kvserve.parent.adoption import HeldTable, held_table, wanted_geometry
from kvserve.parent.housekeeping import remove_all_fifos, remove_all_notes
from kvserve.parent.instance_lock import MakingLock, SegmentLock
from kvserve.parent.logs import Log
from kvserve.parent.writers import TrustedWriters
from kvserve.protocol.messages import PROTOCOL_VERSION
from kvserve.store import urls
from kvserve.table import segment, semaphores
from kvserve.table._core import LAYOUT_VERSION
from kvserve.table.geometry import Geometry
from kvserve.table.table import Table
from kvserve.transport.mqueue import create_queues, unlink_queue
from kvserve.units import format_size

# For semaphores, which only the owners of shards' locks need. A client that could wait on one
# could hold up all processes.
_OWNER_ONLY = 0o600


@dataclass(frozen=True, slots=True)
class Instance:
    """A started instance.

    Args:
        names: its names.
        config: the configuration, with the number of workers and the largest value decided.
        geometry: the table's.
        held: the table.
        manifest: what clients read.
        writers: the trusted writers.
    """

    names: Names
    config: Config
    geometry: Geometry
    held: HeldTable
    manifest: Manifest
    writers: TrustedWriters


@contextmanager
def started(names: Names, config: Config, group_id: int | None, log: Log) -> Iterator[Instance]:
    """Makes the kernel objects and files of an instance; at the end takes them down again.

    The caller holds the lock on the pid file.

    Raises:
        AlreadyServed, ForeignObject, LimitError: as their texts say. What was made is removed,
            and a kept table stays.
    """
    with ExitStack() as undo:
        making = MakingLock(names)
        if not making.take():
            raise making.in_use(names)
        undo.callback(making.release)
        geometry, workers = _plan(names, config, log)
        segment_lock = SegmentLock(names)
        undo.callback(segment_lock.release)
        segment_lock.take()  # before touching what a server of another runtime directory may use
        unlink_file(names.manifest)
        undo.callback(remove_all_fifos, names)
        remove_all_fifos(names)
        undo.callback(remove_all_notes, names)
        remove_all_notes(names)
        undo.callback(_unlink_objects, names, segment_lock)
        _unlink_objects(names, segment_lock)  # a killed server may have had more of them
        depth, message_bytes = _make_queues(names, config, workers, group_id, log)
        semaphores.create(names, geometry.shards, _OWNER_ONLY, None)
        held = undo.enter_context(held_table(names, config, geometry, group_id, segment_lock, log))
        config = dataclasses.replace(config, workers=workers, max_value=geometry.value_bytes_max)
        _introduce_store(held.table, config)
        pages = _make_pages(names, config, group_id)
        manifest = Manifest(
            instance_id=held.table.instance_id().hex(),
            pid=os.getpid(),
            protocol_version=PROTOCOL_VERSION,
            layout_version=LAYOUT_VERSION,
            workers=workers,
            writers=config.writers,
            shards=geometry.shards,
            queue_message_bytes=message_bytes,
            queue_depth=depth,
            value_bytes_max=geometry.value_bytes_max,
            group_id=group_id,
            memory_objects={
                names.table: geometry.table_bytes,
                names.hints: geometry.hints_bytes,
                f"/{names.lease_file.name}": limits.LEASE_SLOTS,
                **pages,
            },
            semaphores=[names.shard_semaphore(shard) for shard in range(geometry.shards)],
            queues=[names.worker_queue(worker) for worker in range(workers)],
        )
        undo.callback(unlink_file, names.manifest)
        manifest.write(names)
        writers = _expect_writers(names, config, held.table)
        making.release()
        undo.callback(making.take)  # hold it while all is taken down; go on even if it is not free
        yield Instance(names, config, geometry, held, manifest, writers)


def queue_mode(config: Config) -> int:
    """The mode of a queue: the group's clients may send, but not receive what others sent."""
    return config.mode & ~0o040


def workers_wanted(config: Config) -> int:
    """How many workers to start: as configured, else one for every two cores, up to a few.

    The other cores are for the clients, which take as long over a request as a worker does. On two
    cores, 1, 2, 4 and 8 processes did 1.9, 1.8, 2.0 and 1.3 times as many operations of YCSB's A
    with one worker as with two (`kvserve bench`, medians of 3 alternating rounds of a second).
    """
    wanted = (len(os.sched_getaffinity(0)) + 1) // 2
    return config.workers or min(wanted, limits.WORKERS_DEFAULT_MAX)


def find_group(config: Config) -> int | None:
    """The id of the configured group; None if there is none.

    Raises:
        ConfigError: no such group.
    """
    if not config.group:
        return None
    try:
        return grp.getgrnam(config.group).gr_gid
    except KeyError:
        raise ConfigError(
            f"group {config.group!r} does not exist; make it: groupadd {config.group}"
        ) from None


def _plan(names: Names, config: Config, log: Log) -> tuple[Geometry, int]:
    wanted = workers_wanted(config)
    geometry = wanted_geometry(names, config, wanted)
    if geometry.value_bytes_max < config.max_value:
        log.info(
            f"the largest value is {format_size(geometry.value_bytes_max)} instead of "
            f"{format_size(config.max_value)}: a larger one needs more --memory"
        )
    workers = min(wanted, geometry.shards)
    if workers < wanted:
        log.info(
            f"workers lowered from {wanted} to {workers}, the number of shards that "
            f"{format_size(config.memory)} make"
        )
    return geometry, workers


def _unlink_objects(names: Names, segment_lock: SegmentLock) -> None:
    """Unlinks all queues, semaphores and pages of the name, unless another server has taken it."""
    if segment_lock.is_superseded:
        return
    settings.remove(names)
    feed_segment.remove(names)
    for worker in range(limits.WORKERS_MAX):
        queue = names.worker_queue(worker)
        with taken_over(queue):
            unlink_queue(queue)
    with taken_over(names.shard_semaphore(0)):
        semaphores.unlink(names, limits.SHARDS_MAX)


def _make_pages(names: Names, config: Config, group_id: int | None) -> dict[str, int]:
    """Makes the shared memory beside the table; returns the bytes of each segment by name.

    It is made anew at each start, so `_unlink_objects` removes it.
    """
    settings.create(names, to_page(config), group_id)
    pages = {names.settings: settings.PAGE_BYTES}
    if config.feed_size:
        rings = config.workers + config.writers
        feed_segment.create(names, rings, config.feed_size, config.mode, group_id)
        pages[names.feed] = feed_segment.size_bytes(rings, config.feed_size)
    return pages


def _expect_writers(names: Names, config: Config, table: Table) -> TrustedWriters:
    feed = None
    if config.writers and config.feed_size:
        feed = segment.attach(names.feed, os.geteuid(), writable=True)
    return TrustedWriters(table, config.writers, feed, config.workers)


def _introduce_store(table: Table, config: Config) -> None:
    """Writes into the table what its readers must know about the store."""
    has_store = config.store != "none"
    is_shared = has_store and urls.is_shared(config.store)
    table.set_read_policy(has_store, is_shared, config.workers)
    table.store_mark = urls.mark(config.store)


def _make_queues(
    names: Names, config: Config, workers: int, group_id: int | None, log: Log
) -> tuple[int, int]:
    wanted = config.queue_depth, config.queue_message
    depth, message_bytes = create_queues(names, workers, *wanted, queue_mode(config), group_id)
    if (depth, message_bytes) != wanted:
        log.info(
            f"queues of {depth} messages of {format_size(message_bytes)} instead of "
            f"{wanted[0]} of {format_size(wanted[1])}: the system allows no more "
            f"(kvserve doctor --name {names.name} prints the command that raises it)"
        )
    return depth, message_bytes
