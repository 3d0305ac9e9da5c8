"""Gets the parent its table: the kept one if it is sound and as wanted, else a new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from kvserve import limits
from kvserve.config import Config
from kvserve.errors import ForeignObject, ServerBusy
from kvserve.names import Names, memory_path
from kvserve.objects import grant
from kvserve.parent.finding import how_to_end
from kvserve.parent.instance_lock import SegmentLock
from kvserve.parent.logs import Log
from kvserve.store import urls
from kvserve.table import lease
from kvserve.table.geometry import Geometry, plan
from kvserve.table.lease import Lease
from kvserve.table.table import Table, create, kept, remove, versions_so_far
from kvserve.units import format_size

_VIOLATIONS_LOGGED = 5  # the first ones show what is wrong


@dataclass(slots=True)
class HeldTable:
    """A table that this process serves.

    Args:
        table: attached for writing, in lease slot `limits.LEASE_SLOT_PARENT`.
        items: how many items a kept table brought.
        is_kept: whether it stays when the server ends.
    """

    table: Table
    items: int
    is_kept: bool


@contextmanager
def held_table(
    names: Names,
    config: Config,
    geometry: Geometry,
    group_id: int | None,
    claim: SegmentLock,
    log: Log,
) -> Iterator[HeldTable]:
    """Adopts or creates the table; closes it at the end, and removes it if it is not kept.

    A new table is kept only if the caller sets `is_kept`, so that a failed start leaves nothing;
    an adopted one is kept unless the caller resets it. The semaphores must exist, and the
    segment's lock must be held if there is a segment.

    Raises:
        ForeignObject: an object of this name is not ours.
        LimitError: the table does not fit.
    """
    held = _adopt(names, config, geometry, group_id, log)
    if held is None:
        so_far = versions_so_far(names)
        remove(names)
        claim.release()
        held = _create(names, config, geometry, group_id, claim, so_far)
    try:
        yield held
    finally:
        if held.is_kept:
            _restore_lease_file(names, held.table)
        held.table.close()
        if not held.is_kept and not claim.is_superseded:
            remove(names)


def _restore_lease_file(names: Names, table: Table) -> None:
    """Makes a lease file if ours was removed: without one the next server would drop the table.

    Not while trusted writers hold slots in the old file: they would be taken for dead.
    """
    writers = table.lease.holders(range(limits.LEASE_SLOT_WRITER_FIRST, limits.LEASE_SLOTS))
    if not writers and not os.path.lexists(names.lease_file):
        lease.create(names.lease_file)


def _adopt(
    names: Names, config: Config, geometry: Geometry, group_id: int | None, log: Log
) -> HeldTable | None:
    """The kept table; None if there is none, or if it cannot be adopted (the log says why)."""
    if not memory_path(names.table).exists():
        return None
    if config.fresh:
        log.info("the kept table is dropped, as --fresh demands")
        return None
    if reason := reason_to_replace(names, geometry):
        log.warning(f"the kept table is replaced by an empty one: {reason}")
        return None
    table = _attach_sound(names, log)
    if table is None:
        return None
    if config.store != "none" and table.store_mark != urls.mark(config.store):
        table.close()
        log.warning(
            "the kept table is replaced by an empty one: its values are not those of this store"
        )
        return None
    _grant(names, config, group_id)  # the configured mode may have changed
    return HeldTable(table, items=count_items(table), is_kept=True)


def _create(
    names: Names,
    config: Config,
    geometry: Geometry,
    group_id: int | None,
    claim: SegmentLock,
    so_far: int,
) -> HeldTable:
    create(names, geometry, config.mode, group_id, so_far)
    try:
        _grant(names, config, group_id)
        if not claim.take():
            raise ForeignObject(f"{memory_path(names.table)} was removed as soon as it was made")
        return HeldTable(_attach(names), items=0, is_kept=False)
    except BaseException:
        remove(names)
        raise


def _grant(names: Names, config: Config, group_id: int | None) -> None:
    """Gives both segments their modes. A group never gets to write: it could truncate them."""
    for name in (names.table, names.hints):
        grant(str(memory_path(name)), config.mode & ~0o020, group_id)


def count_items(table: Table) -> int:
    """How many items the table has, expired ones that were not swept yet included."""
    return sum(table.shard_stats(shard)["items"] for shard in range(table.shards))


def _attach(names: Names) -> Table:
    """The table, with a lease of this process, which ends when the table is closed."""
    held = Lease.join(names.lease_file, limits.LEASE_SLOT_PARENT)
    try:
        return Table(names, held)
    except BaseException:
        held.leave()
        raise


def _attach_sound(names: Names, log: Log) -> Table | None:
    """The kept table with dead processes' locks freed; None if it breaks an invariant."""
    table = _attach(names)
    freed = table.recover()
    if freed:
        log.info(f"freed {freed} locks that killed processes had held")
    try:
        violations = _verify(table)
        if not violations:
            return table
    except ServerBusy:  # a trusted writer outlived its killed server and was stopped inside
        writers = table.lease.holders(range(limits.LEASE_SLOT_WRITER_FIRST, limits.LEASE_SLOTS))
        table.close()
        raise ServerBusy(
            "the kept table is held by a process that writes into it and was stopped; "
            f"{how_to_end(writers.values(), '-9')}, or start with --fresh"
        ) from None
    table.close()
    for violation in violations[:_VIOLATIONS_LOGGED]:
        log.error(f"the kept table is damaged: {violation}")
    log.error(f"the kept table is replaced by an empty one: {len(violations)} violations")
    return None


def _verify(table: Table) -> list[str]:
    """The violations in all shards. Uses all cores, because the start waits for it.

    Each thread holds one shard's lock and never waits for a second.
    """
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return [text for texts in threads.map(table.verify, range(table.shards)) for text in texts]


def wanted_geometry(names: Names, config: Config, workers: int) -> Geometry:
    """The geometry for the table: the kept one's, if the configuration allows that.

    Raises:
        ConfigError: the memory is too small for the items.
    """
    sizes = config.memory, config.item_size, config.max_value
    if not config.fresh and not config.shards:
        try:
            found = kept(names)
        except (FileNotFoundError, ForeignObject):
            pass  # `reason_to_replace` reports it
        else:
            # Another number of workers is no reason to lose the table.
            if plan(*sizes, found.shards, workers) == found:
                return found
    return plan(*sizes, config.shards, workers)


def reason_to_replace(names: Names, geometry: Geometry) -> str | None:
    """Why the kept table cannot be adopted where this geometry is wanted; None if it can."""
    try:
        found = kept(names)
    except FileNotFoundError:
        return "a part of it is missing"
    except ForeignObject as error:
        # The owner was checked before. A table of ours that cannot be adopted is replaced.
        return str(error)
    if found == geometry:
        return None
    settings = {
        "memory": (format_size(found.memory_bytes), format_size(geometry.memory_bytes)),
        "item size": (found.item_bytes, geometry.item_bytes),
        "largest value": (found.value_bytes_max, geometry.value_bytes_max),
        "shards": (found.shards, geometry.shards),
    }
    differing = [f"{name} {old}, not {new}" for name, (old, new) in settings.items() if old != new]
    return f"it was made for {'; '.join(differing) or 'other settings'}"
