"""Surveys what a trace holds, and chooses the table sizes that are worth a replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kvserve import limits
from kvserve.bench.trace import DELETE, Request, Trace
from kvserve.config import Config
from kvserve.errors import ConfigError, InvalidArgument
from kvserve.parent.starting import workers_wanted
from kvserve.table.geometry import Geometry, plan
from kvserve.units import format_size

_SAMPLE_KEYS_MAX = 2**17
_RUNGS = 8  # the smallest is about a hundredth of what holds everything
_ROOM = 1.25  # keys do not spread evenly over the shards
_SAME_SHARE = 64  # sizes that differ by less count as equal: a server rounds its memory down


@dataclass(slots=True)
class Survey:
    """What a trace holds. Keys of values that are too large for any table do not count.

    Keys are counted one by one up to `_SAMPLE_KEYS_MAX`; beyond that their number is estimated from
    those whose hash ends in some zero bits: more bits as there are more keys. Source: Wegman's
    adaptive sampling, as analysed by Flajolet, Computing 43 (1990).
    """

    default_value_bytes: int  # of values for which the trace gives none
    requests: int = 0
    largest_value_bytes: int = 0
    _sample: dict[bytes, int] = field(default_factory=dict)  # bytes of key and value
    _mask: int = 0

    def add(self, chunk: Sequence[Request]) -> None:
        """Records some requests."""
        self.requests += len(chunk)
        for operation, key, value_bytes in chunk:
            if operation == DELETE:
                continue
            size = self.default_value_bytes if value_bytes is None else value_bytes
            if size > self.largest_value_bytes:
                self.largest_value_bytes = size
            if size > limits.VALUE_BYTES_MAX or hash(key) & self._mask:
                continue
            if value_bytes is not None or key not in self._sample:
                self._sample[key] = len(key) + size
        while len(self._sample) > _SAMPLE_KEYS_MAX:
            self._mask = 2 * self._mask + 1
            items = self._sample.items()
            self._sample = {key: size for key, size in items if not hash(key) & self._mask}

    @property
    def keys(self) -> int:
        """How many different keys are read or written."""
        return len(self._sample) * (self._mask + 1)

    @property
    def item_bytes(self) -> int:
        """The average size of key and value together, over the keys, as --item-size takes it."""
        average = sum(self._sample.values()) // max(1, len(self._sample))
        return min(max(limits.ITEM_BYTES_MIN, average), limits.VALUE_BYTES_MAX)

    def plan(self, memory_bytes: int) -> Geometry:
        """The table that `kvserve serve` makes with so much memory and this --item-size."""
        default = Config()
        return plan(
            memory_bytes,
            self.item_bytes,
            max(default.max_value, self._storable_bytes),
            default.shards,
            workers_wanted(default),
        )

    def is_held(self, geometry: Geometry) -> bool:
        """Whether a table holds everything at once, with some room to spare."""
        has_room = geometry.capacity_items >= self.keys * _ROOM
        return has_room and geometry.value_bytes_max >= self._storable_bytes

    @property
    def _storable_bytes(self) -> int:
        """The largest value that some table can store."""
        return min(self.largest_value_bytes, limits.VALUE_BYTES_MAX)


def survey(trace: Trace, default_value_bytes: int, show: Callable[[int], None]) -> Survey:
    """Reads a trace to its end.

    Args:
        trace: the trace.
        default_value_bytes: the size of values for which the trace gives none.
        show: called now and then with the bytes of the file that have been read.

    Raises:
        InvalidArgument: it is no trace, or nothing in it would fill a cache.
    """
    found = Survey(default_value_bytes)
    for chunk in trace.chunks(show):
        found.add(chunk)
    if not found.keys:
        raise InvalidArgument(f"{trace.name} asks for nothing that a cache could hold")
    return found


@dataclass(frozen=True, slots=True)
class Sizes:
    """What to replay: sizes of memory in bytes and the table of each, ascending.

    `live_bytes` is the size that a live instance has; `left_out_bytes` are the sizes for which
    this machine has too little memory left.
    """

    tables: dict[int, Geometry]
    live_bytes: int | None = None
    left_out_bytes: Sequence[int] = ()


def choose(found: Survey, named_bytes: Sequence[int], live_bytes: int | None) -> Sizes:
    """Chooses the sizes to replay.

    Args:
        found: what the trace holds.
        named_bytes: the sizes that the user wants; none: powers of two up to what holds all.
        live_bytes: the memory of the live instance, if there is one.

    Raises:
        InvalidArgument: this machine has too little memory for a named size.
        ConfigError: a named size is too small to hold anything.
    """
    if named_bytes:
        tables = {memory_bytes: found.plan(memory_bytes) for memory_bytes in sorted(named_bytes)}
    else:
        tables = _ladder(found)
    if live_bytes is not None:
        same = [it for it in tables if abs(it - live_bytes) * _SAME_SHARE < live_bytes]
        if same:
            live_bytes = same[0]
        else:
            tables = dict(sorted({**tables, live_bytes: found.plan(live_bytes)}.items()))
    left_out = []
    available_bytes = _available_bytes()
    while sum(tables) > available_bytes:  # the live instance must keep its memory
        optional = [it for it in tables if it not in named_bytes]
        if not optional:
            raise InvalidArgument(
                f"tables of these sizes take more than the {format_size(available_bytes)} that "
                "this machine has left; name smaller or fewer ones with --memory"
            )
        del tables[optional[-1]]
        left_out.append(optional[-1])
    return Sizes(tables, live_bytes if live_bytes in tables else None, left_out)


def _ladder(found: Survey) -> dict[int, Geometry]:
    """Powers of two, ascending; the last is the first that holds everything."""
    tables: dict[int, Geometry] = {}
    memory_bytes = limits.MEMORY_BYTES_MIN
    while memory_bytes <= limits.MEMORY_BYTES_MAX:
        with suppress(ConfigError):  # too small for a single item, or nearly so
            geometry = found.plan(memory_bytes)
            if geometry.capacity_items > 0:
                tables[memory_bytes] = geometry
            if found.is_held(geometry):
                break
        memory_bytes *= 2
    return dict(list(tables.items())[-_RUNGS:])


def _available_bytes() -> int:
    """How many bytes programs may take without swapping, as the kernel estimates."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":") for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024
