"""What the workloads of `kvserve bench` ask for: how often, of which keys, in which order."""

from __future__ import annotations

import secrets
from collections import Counter

import pytest

from kvserve.bench.operations import (
    MODIFY,
    READ,
    WRITE,
    YCSB,
    Draws,
    Workload,
    mix,
    scattered,
)

KEYS = [f"k{number}" for number in range(1000)]
NEW_KEYS = [f"new{number}" for number in range(100)]
COUNT = 50_000
SKEW = 0.99  # YCSB's
SIGMAS = 6  # once in 500 million runs by chance


def drawn(workload: Workload) -> list[tuple[int, str]]:
    """So many operations, of a random seed."""
    seed = secrets.token_hex(4)
    print(f"seed {seed}")
    return Draws(workload, KEYS).operations(COUNT, NEW_KEYS, seed)


def is_about(count: int, share: float) -> bool:
    """Whether so many of all operations may be by chance, where such a share is expected."""
    sigma = (COUNT * share * (1 - share)) ** 0.5
    return bool(abs(count - COUNT * share) <= SIGMAS * sigma)


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("A", {READ: 0.5, WRITE: 0.5}),
        ("B", {READ: 0.95, WRITE: 0.05}),
        ("C", {READ: 1.0}),
        ("D", {READ: 0.95, WRITE: 0.05}),
        ("F", {READ: 0.5, MODIFY: 0.5}),
    ],
)
def test_shares_are_those_of_ycsb(name: str, shares: dict[int, float]) -> None:
    kinds = Counter(kind for kind, _ in drawn(YCSB[name]))
    assert set(kinds) == set(shares)
    assert all(is_about(kinds[kind], share) for kind, share in shares.items())


@pytest.mark.parametrize("name", ["A", "B", "C", "F"])
def test_popularity_is_by_zipfs_law(name: str) -> None:
    asked = Counter(key for _, key in drawn(YCSB[name]))
    weights = [rank**-SKEW for rank in range(1, len(KEYS) + 1)]
    for rank, key in enumerate(scattered(KEYS)[:20]):
        assert is_about(asked[key], weights[rank] / sum(weights))


def test_popular_keys_are_scattered() -> None:
    order = scattered(KEYS)
    assert sorted(order) == sorted(KEYS)
    places = [KEYS.index(key) for key in order[:10]]
    assert max(places) - min(places) > len(KEYS) // 4


def test_without_a_workload_all_keys_are_equally_likely() -> None:
    operations = drawn(mix(0.3))
    assert is_about(sum(kind == WRITE for kind, _ in operations), 0.3)
    asked = Counter(key for _, key in operations)
    assert all(is_about(asked[key], 1 / len(KEYS)) for key in KEYS)


def test_latest_reads_what_was_inserted_last() -> None:
    newest = KEYS[-1]
    inserted = 0
    reads_of_newest = reads = 0
    known = set(KEYS)
    for kind, key in drawn(YCSB["D"]):
        if kind == WRITE:
            assert key == NEW_KEYS[inserted % len(NEW_KEYS)]
            inserted += 1
            newest = key
            known.add(key)
        else:
            assert key in known
            reads += 1
            reads_of_newest += key == newest
    assert inserted > 2 * len(NEW_KEYS)
    # The newest key has about the share of the first rank, those who share its name a little more.
    first = 1 / sum(rank**-SKEW for rank in range(1, len(KEYS) + 1))
    assert first * 0.95 < reads_of_newest / reads < first * 1.2


def test_latest_reads_the_last_loaded_before_anything_is_inserted() -> None:
    reads = Draws(Workload(1.0, WRITE, "latest"), KEYS).operations(COUNT, [], "")
    by_age = [key for key, _ in Counter(key for _, key in reads).most_common(3)]
    assert by_age == [KEYS[-1], KEYS[-2], KEYS[-3]]


def test_processes_differ_and_runs_do_not() -> None:
    draws = Draws(YCSB["A"], KEYS)
    first, second = draws.operations(100, [], "0"), draws.operations(100, [], "1")
    assert first != second
    assert Draws(YCSB["A"], KEYS).operations(100, [], "0") == first
