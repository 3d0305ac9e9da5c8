"""The operations of a workload: YCSB's core workloads, and a mix of gets and sets.

Zipf's law gives the key of rank r a share proportional to 1 / r**skew. Like YCSB, this scatters the
ranks over the keys, so that popular keys were not loaded together. Source: Cooper and others,
Benchmarking Cloud Serving Systems with YCSB, SoCC'10. Its workload E is left out: it scans ranges
of keys, which a hash table does not have.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, Literal, TypeVar

READ, WRITE, MODIFY = range(3)  # MODIFY reads a key, then writes it
SKEW = 0.99  # YCSB's
INSERTS_MAX = 4_096  # new keys of a process; then it writes them again, to bound the memory

Popularity = Literal["uniform", "zipfian", "latest"]
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Workload:
    """The share of reads, what the other operations do, and which keys they use.

    With "latest" the other operations insert, and the reads prefer the keys inserted last.
    """

    reads: float
    otherwise: int
    popularity: Popularity


YCSB = {
    "A": Workload(0.50, WRITE, "zipfian"),
    "B": Workload(0.95, WRITE, "zipfian"),
    "C": Workload(1.00, WRITE, "zipfian"),
    "D": Workload(0.95, WRITE, "latest"),
    "F": Workload(0.50, MODIFY, "zipfian"),
}


def mix(write_share: float) -> Workload:
    """Gets and sets of keys that are all equally likely."""
    return Workload(1 - write_share, WRITE, "uniform")


def zipf_bounds(count: int, skew: float) -> array[float]:
    """The sums of the ranks' weights by Zipf's law, as `random.choices` takes them."""
    return array("d", accumulate(rank**-skew for rank in range(1, count + 1)))


def scattered(keys: Sequence[Key]) -> list[Key]:
    """The keys in a random order, the same at every run."""
    return random.Random(len(keys)).sample(keys, len(keys))


class Draws(Generic[Key]):
    """Draws the operations of a workload. Made once, before the processes that share it.

    Args:
        workload: the workload.
        keys: the keys that are loaded, in that order.

    Example:
        >>> draws = Draws(YCSB["D"], ["old", "newer"])
        >>> draws.operations(3, new_keys=["newest"], seed="")
        [(1, 'newest'), (0, 'newest'), (0, 'newest')]
    """

    def __init__(self, workload: Workload, keys: Sequence[Key]) -> None:
        self._workload = workload
        self._keys = scattered(keys) if workload.popularity == "zipfian" else keys
        is_uniform = workload.popularity == "uniform"
        self._bounds = None if is_uniform else zipf_bounds(len(keys), SKEW)

    def operations(self, count: int, new_keys: Sequence[Key], seed: str) -> list[tuple[int, Key]]:
        """The operations of one process, in order, the same for the same seed.

        Args:
            count: how many operations.
            new_keys: the keys it inserts, in that order and then again; no other process has them.
            seed: a different one for each process.
        """
        source = random.Random(seed)
        reads = [source.random() < self._workload.reads for _ in range(count)]
        if self._workload.popularity == "latest":
            ranks = source.choices(range(len(self._keys)), cum_weights=self._bounds, k=count)
            return list(self._latest(reads, ranks, new_keys))
        keys = source.choices(self._keys, cum_weights=self._bounds, k=count)
        return [
            (READ if read else self._workload.otherwise, key)
            for read, key in zip(reads, keys, strict=True)
        ]

    def _latest(
        self, reads: Sequence[bool], ranks: Sequence[int], new_keys: Sequence[Key]
    ) -> Iterator[tuple[int, Key]]:
        """Inserts, and reads of the latest keys: this process's own, then those loaded last."""
        inserted = 0
        for read, rank in zip(reads, ranks, strict=True):
            if not read:
                yield self._workload.otherwise, new_keys[inserted % len(new_keys)]
                inserted += 1
            elif rank < inserted:
                yield READ, new_keys[(inserted - 1 - rank) % len(new_keys)]
            else:
                yield READ, self._keys[inserted - 1 - rank]  # from the end: the newest is the last
