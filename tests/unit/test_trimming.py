"""A worker gives memory back when much was in use and is no more, whoever used it."""

from __future__ import annotations

import pytest

from kvserve import limits
from kvserve.execution.budget import Budget
from kvserve.worker.trimming import Trimmer


class Client:
    """A session."""

    charged_bytes, is_open = 0, True


class Rig:
    """A trimmer that counts; `arriving_bytes` of requests are on their way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.budget, self.client, self.arriving_bytes, self.trims = Budget(2**30), Client(), 0, 0
        monkeypatch.setattr("kvserve.worker.trimming._find_trim", lambda: self._trim)
        self._trimmer = Trimmer(self.budget, lambda: self.arriving_bytes)

    def _trim(self, _: int) -> int:
        self.trims += 1
        return 1

    def after(self, ticks: int) -> int:
        """How often memory was given back, so many ticks later."""
        for _ in range(ticks):
            self._trimmer.turn()
        return self.trims


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def test_once_after_each_use(rig: Rig) -> None:
    for turn in (1, 2):
        rig.budget.charge(rig.client, limits.TRIM_BYTES)
        assert rig.after(100) == turn - 1  # it is in use
        rig.budget.charge(rig.client, -limits.TRIM_BYTES)
        assert rig.after(limits.TRIM_TICKS - 1) == turn - 1
        assert rig.after(1) == turn
        assert rig.after(100) == turn


def test_a_use_between_two_ticks_counts(rig: Rig) -> None:
    rig.budget.charge(rig.client, limits.TRIM_BYTES)
    rig.budget.charge(rig.client, -limits.TRIM_BYTES)
    assert rig.after(limits.TRIM_TICKS) == 1


def test_little_use_does_not(rig: Rig) -> None:
    rig.budget.charge(rig.client, limits.TRIM_BYTES - 1)
    assert rig.after(1) == 0
    rig.budget.charge(rig.client, 1 - limits.TRIM_BYTES)
    assert rig.after(100) == 0


def test_requests_that_are_given_up_half_way_count_too(rig: Rig) -> None:
    rig.arriving_bytes = limits.TRIM_BYTES
    rig.budget.charge(rig.client, limits.TRIM_BYTES)  # another, which is executed meanwhile
    rig.budget.charge(rig.client, -limits.TRIM_BYTES)
    assert rig.after(100) == 0
    rig.arriving_bytes = 0
    assert rig.after(limits.TRIM_TICKS) == 1
    assert rig.after(100) == 1
    rig.arriving_bytes = limits.TRIM_BYTES
    assert rig.after(1) == 1
    rig.arriving_bytes = 0
    assert rig.after(limits.TRIM_TICKS) == 2
