"""Verifies the table that a stopped or killed server left, and changes nothing of it."""

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
        unrecovered: how many shards a process was killed in, while it changed them.
    """

    violations: list[str]
    unrecovered: int


def inspect_kept(names: Names) -> Inspection | None:
    """Checks a kept table against its invariants, as the next server would.

    A process that was killed inside a shard's lock leaves the lock taken and counts that are off,
    which the next server fixes. So the check is of a private copy in which that was done. The
    claim on the segment keeps servers away meanwhile; the lock on the pid file is left alone,
    because clients take who holds it for a server.

    Args:
        names: whose table.

    Returns:
        What was found; None if no table is kept.

    Raises:
        AlreadyServed: it is served, or somebody writes into it although its server was killed.
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
    """Trusted writers go on when their server was killed; one that stopped has sent them away."""
    if not memory_path(names.settings).exists():
        return
    with contextlib.suppress(FileNotFoundError):
        slots = range(LEASE_SLOT_WRITER_FIRST, LEASE_SLOTS)
        if writers := lease.holders(names.lease_file, slots):
            raise AlreadyServed(
                "no server runs, but processes write into the table themselves; "
                f"{how_to_end(writers.values())}, or start the server"
            )
