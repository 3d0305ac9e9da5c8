"""The cluster checker, for half a minute: nothing over the bound, no failure of living keys."""

from __future__ import annotations

import secrets

from fault.cluster_checker import run


def test_a_near_cache_over_a_cluster_under_faults() -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}: PYTHONPATH=tests python -m fault.cluster_checker 0 {seed}")
    told = run(0.0, seed, ["takeover", "stop", "dead", "links", "worker"])
    print(told)
    assert told["violations"] == 0
    assert told["living_failed"] == 0
    assert told["reads"] > 100
    # It is a test only if redis-py, beside it, did read what had been replaced long before.
    assert (
        told["faults"]["a takeover while the old primary is cut off"]["redis-py: stalest, ms"]
        > 1000
    )
