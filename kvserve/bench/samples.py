"""Latencies in bounded memory: collected by each process, merged by their parent."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

KINDS = ("get", "miss", "set", "modify")  # a get hit; modify is a read and a write
_SAMPLES_MAX = 1_000_000  # of each kind in a process: 8 MB, and sorted within a second


@dataclass(slots=True)
class Samples:
    """Latencies of one kind of operation, in nanoseconds, in bounded memory.

    Count and maximum are those of all operations. When the array is full, every second latency in
    it is dropped, from then on only every second new one is kept, and so on.
    """

    latencies_ns: array[int] = field(default_factory=lambda: array("q"))
    count: int = 0
    max_ns: int = 0
    stride: int = 1

    def add(self, chunk_ns: array[int]) -> None:
        """Takes the latencies of a chunk of operations."""
        if not chunk_ns:
            return
        self.max_ns = max(self.max_ns, max(chunk_ns))
        self.latencies_ns.extend(chunk_ns[-self.count % self.stride :: self.stride])
        self.count += len(chunk_ns)
        while len(self.latencies_ns) > _SAMPLES_MAX:
            self.latencies_ns = self.latencies_ns[::2]
            self.stride *= 2


@dataclass(slots=True)
class Measured:
    """What one process measured in `seconds`: the samples of each of KINDS.

    `clock_ns` is the part of a latency that measuring takes, `loop_ns` how long the loop takes for
    an operation that does nothing: it bounds the rate that this process can drive.
    """

    samples: dict[str, Samples] = field(default_factory=lambda: {kind: Samples() for kind in KINDS})
    failures: int = 0
    seconds: float = 0.0
    clock_ns: float = 0.0
    loop_ns: float = 0.0

    def latencies_ns(self) -> list[int]:
        """The latencies of all kinds, in no order."""
        return list(chain(*(samples.latencies_ns for samples in self.samples.values())))

    @property
    def count(self) -> int:
        """How many operations succeeded."""
        return sum(samples.count for samples in self.samples.values())


def percentile(latencies_ns: Sequence[int], share: float) -> int:
    """The nearest-rank percentile of sorted latencies; `share` from 0 to 1.

    Example:
        >>> percentile([10, 20, 30, 40], 0.5), percentile([10, 20, 30, 40], 0.99)
        (20, 40)
    """
    rank = -int(-share * len(latencies_ns) // 1)
    return latencies_ns[max(0, rank - 1)]


def merge(parts: Sequence[Samples]) -> list[int]:
    """All processes' latencies, sorted; each is thinned as much as the one thinned most."""
    stride = max(part.stride for part in parts)
    merged: list[int] = []
    for part in parts:
        merged += part.latencies_ns[:: stride // part.stride]
    return sorted(merged)
