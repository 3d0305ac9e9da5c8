"""When a dead worker is replaced, over thousands of deaths; and the rule of the parent's loop."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest

from kvserve.limits import RESPAWN_PACE_SECONDS, RESPAWNS_A_MINUTE
from kvserve.parent.attempts import RETRY_SECONDS, Attempts
from kvserve.parent.logs import Log
from kvserve.parent.respawning import Respawns
from kvserve.parent.timers import Timers


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_two_thousand_deaths_right_after_the_respawn(clock: Clock) -> None:
    respawns = Respawns(clock)
    moments = []
    for _ in range(2000):
        clock.now += respawns.pause(0, has_served=True)
        moments.append(clock.now)
        clock.now += 0.01  # it serves, and dies
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert max(gaps[: RESPAWNS_A_MINUTE - 1]) < 0.02
    paced = gaps[RESPAWNS_A_MINUTE:]
    assert paced == pytest.approx([RESPAWN_PACE_SECONDS] * len(paced))
    assert respawns.count == 2000


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_a_respawn_is_never_far(clock: Clock, seed: int) -> None:
    """No pause is longer than the pace, and a minute never has twice as many as it may at once."""
    chance = random.Random(seed)
    respawns = Respawns(clock)
    moments = []
    for _ in range(2000):
        pause = respawns.pause(0, has_served=chance.random() < 0.8)
        assert 0.0 <= pause <= RESPAWN_PACE_SECONDS
        clock.now += pause
        moments.append(clock.now)
        clock.now += chance.choice([0.0, 0.01, 0.3, 0.9, 5.0])
    for first, last in zip(moments, moments[2 * RESPAWNS_A_MINUTE + 1 :], strict=False):
        assert last - first > 60.0


def test_a_worker_that_dies_young_is_replaced_at_once_once_it_has_served(clock: Clock) -> None:
    respawns = Respawns(clock)
    unserved = [respawns.pause(0, has_served=False) for _ in range(4)]
    assert unserved == [0.0, 0.5, 1.0, 1.5]  # each half a second after the one before it
    clock.now += 1.5
    assert respawns.pause(0, has_served=True) == 0.0
    assert respawns.pause(0, has_served=False) == 0.0


def test_workers_are_counted_by_themselves(clock: Clock) -> None:
    respawns = Respawns(clock)
    for _ in range(RESPAWNS_A_MINUTE + 1):
        respawns.pause(0, has_served=True)
    assert respawns.pause(0, has_served=True) > 0.0
    assert respawns.pause(1, has_served=True) == 0.0


class TestAttempts:
    """What fails is told and tried again, as soon as the rule holds."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "log"

    def test_what_a_timer_does_is_due_again(self, clock: Clock, file: Path) -> None:
        timers = Timers(clock)
        failures: list[Exception] = [OSError(23, "too many"), MemoryError(), OverflowError()]
        done = []

        def act() -> None:
            if failures:
                raise failures.pop(0)
            done.append(clock.now)

        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
        attempts = Attempts(Log(descriptor, "info", "text"), timers, lambda: True)
        timers.set("it", 0.0, act)
        for _ in range(4):
            timers.run_due(attempts.run_timer)
            clock.now += RETRY_SECONDS
        os.close(descriptor)
        assert done == [1000.0 + 3 * RETRY_SECONDS]
        assert "it failed, and is tried again: OSError: [Errno 23] too many" in file.read_text()

    def test_the_same_failure_is_told_once(self, file: Path) -> None:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
        attempts = Attempts(Log(descriptor, "info", "text"), Timers(), lambda: True)
        for _ in range(3):
            attempts.run("it", lambda: [][0])
        os.close(descriptor)
        assert file.read_text().count("it failed") == 1

    def test_not_even_telling_may_fail(self) -> None:
        class BadLog(Log):
            def error(self, _text: str) -> None:
                raise MemoryError

        attempts = Attempts(BadLog(2, "info", "text"), Timers(), lambda: True)
        attempts.run("it", lambda: [][0])

    def test_before_the_first_service_a_failure_is_the_starts(self) -> None:
        attempts = Attempts(Log(2, "info", "text"), Timers(), lambda: False)
        with pytest.raises(IndexError):
            attempts.run("it", lambda: [][0])
