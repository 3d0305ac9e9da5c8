"""The seed of a run of the tests: another one each time, printed, and repeated by a variable.

Each random test draws from a seed of its own that follows from it, so that one test alone can be
repeated. Hypothesis has seeds of its own and prints how to repeat what it found.
"""

from __future__ import annotations

import hashlib
import os
import secrets

VARIABLE = "KVSERVE_TEST_SEED"
SEED = int(os.environ.get(VARIABLE) or secrets.randbelow(10**9))


def derived(test: str) -> int:
    """The seed of the test of this name.

    Example:
        >>> derived("one") == derived("one") != derived("other")
        True
    """
    return int.from_bytes(hashlib.sha256(f"{SEED} {test}".encode()).digest()[:4], "little")


def line() -> str:
    """What a run prints of its seed."""
    return f"seed {SEED} ({VARIABLE}={SEED} repeats the random tests)"
