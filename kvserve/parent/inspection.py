"""Verifies the table that a stopped or killed server left, without changing it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from kvserve.errors import AlreadyServed, ForeignObject
from kvserve.limits import LEASE_SLOT_WRITER_FIRST, LEASE_SLOTS
from kvserve.names import Names, memory_path
from kvserve.parent.finding import how_to_end
from kvserve.parent.instance_lock import SegmentLock
from kvserve.table import lease
from kvserve.table.table import PrivateCopy


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found.

    Args:
        violations: one sentence for each broken invariant.
        unrecovered: in how many shards a process was killed during a change.
    """

    violations: list[str]
    unrecovered: int


def inspect_kept(names: Names) -> Inspection | None:
    """Checks a kept table against its invariants, as the next server would.

    A process that was killed inside a shard's lock leaves the lock taken and the counts wrong; the
    next server repairs that. So this checks a private copy that has been repaired. The lock on the
    segment keeps servers away meanwhile. The pid file is not locked, because clients take the
    holder of that lock for a server.

    Args:
        names: the instance's.

    Returns:
        What was found; None if no table is kept.

    Raises:
        AlreadyServed: it is served, or a process writes into it although its server was killed.
        ForeignObject: it is another user's.
    """
    claim = SegmentLock(names)
    if not claim.take():
        return None
    try:
        _refuse_if_written(names)
        with contextlib.closing(PrivateCopy(names)) as table:
            unrecovered = table.recover()
            violations = [text for shard in range(table.shards) for text in table.verify(shard)]
            return Inspection(violations, unrecovered)
    except FileNotFoundError:
        return Inspection(["the kept table has lost a part of it, its hints"], 0)
    except ForeignObject as error:
        return Inspection([str(error)], 0)
    finally:
        claim.release()


def _refuse_if_written(names: Names) -> None:
    """A trusted writer goes on when its server is killed; a server that stops ends its writers."""
    if not memory_path(names.settings).exists():
        return
    with contextlib.suppress(FileNotFoundError):
        slots = range(LEASE_SLOT_WRITER_FIRST, LEASE_SLOTS)
        if writers := lease.holders(names.lease_file, slots):
            raise AlreadyServed(
                "no server runs, but processes write into the table themselves; "
                f"{how_to_end(writers.values())}, or start the server"
            )
