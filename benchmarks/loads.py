"""Which keys a load asks for, and what it does with them: zipfian draws and YCSB's core workloads.

Zipf's law gives the item of rank r a share proportional to 1 / r**skew. YCSB scatters the ranks
over the keys, so that neighbours in popularity are no neighbours in the table; so do we. Source:
Cooper and others, Benchmarking Cloud Serving Systems with YCSB, SoCC'10.
"""

from __future__ import annotations

from typing import Any

import numpy as np

READ, WRITE, MODIFY = range(3)  # MODIFY reads a record, then writes it

# Reads, and what the other operations are. E is left out: it scans ranges of keys.
WORKLOADS = {
    "A": (0.50, WRITE),
    "B": (0.95, WRITE),
    "C": (1.00, WRITE),
    "D": (0.95, WRITE),  # inserts, and reads of what was inserted last
    "F": (0.50, MODIFY),
}
INSERTS_MAX = 20_000  # new keys of one process, which are then written again: memory is bounded

Operation = tuple[int, bytes]


def zipfian(count: int, skew: float, draws: int, generator: Any) -> Any:
    """Ranks from 0, the most popular, drawn by Zipf's law."""
    shares = 1 / np.arange(1, count + 1) ** skew
    bounds = np.cumsum(shares)
    ranks = np.searchsorted(bounds, generator.random(draws) * bounds[-1])
    return np.minimum(ranks, count - 1)


def scattered(count: int, skew: float, draws: int, generator: Any) -> Any:
    """Numbers from 0 to count - 1, drawn by Zipf's law, the ranks scattered over them."""
    places = np.random.default_rng(count).permutation(count)  # the same for all processes
    return places[zipfian(count, skew, draws, generator)]


def record_key(number: int) -> bytes:
    """The key of a record that is loaded at the start."""
    return b"user%08d" % number


def ycsb(workload: str, records: int, skew: float, draws: int, process: int) -> list[Operation]:
    """The operations of one process, in order, the same at every run."""
    generator = np.random.default_rng([ord(workload), process])
    read_share, otherwise = WORKLOADS[workload]
    reads = (generator.random(draws) < read_share).tolist()
    if workload == "D":
        ranks = zipfian(records, skew, draws, generator).tolist()
        return _latest(reads, ranks, records, process)
    numbers = scattered(records, skew, draws, generator).tolist()
    return [
        (READ if read else otherwise, record_key(number))
        for read, number in zip(reads, numbers, strict=True)
    ]


def _latest(reads: list[bool], ranks: list[int], records: int, process: int) -> list[Operation]:
    """Inserts of new records, and reads of the latest: a process's own, before these the loaded."""
    operations = []
    inserted = 0
    for read, rank in zip(reads, ranks, strict=True):
        if not read:
            operations.append((WRITE, b"new%02d%07d" % (process, inserted % INSERTS_MAX)))
            inserted += 1
        elif rank < inserted:
            newest = (inserted - 1 - rank) % INSERTS_MAX
            operations.append((READ, b"new%02d%07d" % (process, newest)))
        else:
            operations.append((READ, record_key(max(0, records - 1 - (rank - inserted)))))
    return operations
