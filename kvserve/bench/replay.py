"""Replays a trace over tables of several sizes at once, each in this process's private memory.

Read-through: a get that misses is followed by a set. The tables are real ones; a live instance
is affected only by the processor time that this takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from kvserve import limits
from kvserve.bench.survey import Sizes, Survey
from kvserve.bench.trace import DELETE, GET, Request, Trace
from kvserve.errors import ValueTooLarge
from kvserve.protocol.codec import BYTES
from kvserve.table.table import PrivateTable


@dataclass(frozen=True, slots=True)
class Row:
    """A size, what it held at the end, its hits, and how many values were too large for it."""

    memory_bytes: int
    items: int
    hits: int
    too_large: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result, with the numbers of requests and of gets among them."""

    requests: int
    gets: int
    rows: list[Row]
    interrupted: bool


@dataclass(frozen=True, slots=True)
class _Tally:
    """What has been counted so far, over the same requests for all tables."""

    requests: int
    gets: int
    counts: list[tuple[int, int]]  # a table's hits and values that were too large

    def plus(self, chunk: Sequence[Request], counts: list[tuple[int, int]]) -> _Tally:
        """The tally after another chunk."""
        return _Tally(
            self.requests + len(chunk),
            self.gets + sum(operation == GET for operation, _, _ in chunk),
            [
                (hits + more_hits, too_large + more_too_large)
                for (hits, too_large), (more_hits, more_too_large) in zip(
                    self.counts, counts, strict=True
                )
            ],
        )


def replay(trace: Trace, found: Survey, sizes: Sizes, show: Callable[[int], None]) -> Replayed:
    """Replays a trace until its end or Ctrl-C.

    Args:
        trace: as it was surveyed.
        found: what the survey found.
        sizes: of the tables.
        show: called now and then with the bytes of the file that have been replayed.
    """
    # One byte more than any table takes, if the trace has such values.
    filler = bytes(min(found.largest_value_bytes, limits.VALUE_BYTES_MAX + 1))
    with ExitStack() as stack:
        tables = [
            stack.enter_context(closing(PrivateTable(geometry)))
            for geometry in sizes.tables.values()
        ]
        default = found.default_value_bytes
        tally = _Tally(0, 0, [(0, 0)] * len(tables))
        interrupted = False
        try:
            for chunk in trace.chunks(show):
                counts = [_serve(table, chunk, filler, default) for table in tables]
                # One assignment: Ctrl-C finds all tables counted up to the same request.
                tally = tally.plus(chunk, counts)
        except KeyboardInterrupt:
            interrupted = True
        rows = [
            Row(memory_bytes, _items(table), *counts)
            for memory_bytes, table, counts in zip(sizes.tables, tables, tally.counts, strict=True)
        ]
    return Replayed(tally.requests, tally.gets, rows, interrupted)


def _serve(
    table: PrivateTable, chunk: Sequence[Request], filler: bytes, default_bytes: int
) -> tuple[int, int]:
    """Serves some requests.

    Args:
        table: the table.
        chunk: the requests.
        filler: every value is a part of it.
        default_bytes: the size of values for which the trace gives none.

    Returns:
        How many gets hit, and how many values were too large to be stored.
    """
    get, put = table.get, table.set
    hits = too_large = 0
    for operation, key, value_bytes in chunk:
        if operation == DELETE:
            table.delete(key)
        elif operation == GET and get(key) is not None:
            hits += 1
        else:
            size = default_bytes if value_bytes is None else value_bytes
            try:
                put(key, BYTES, filler[:size], 0)
            except ValueTooLarge:
                too_large += 1
    return hits, too_large


def _items(table: PrivateTable) -> int:
    return sum(table.shard_stats(shard)["items"] for shard in range(table.shards))
