"""How long a process looks before it sleeps, and when it does not look at all."""

from __future__ import annotations

import pytest

from kvserve.transport import spinning
from kvserve.transport.spinning import Spin


class Clock:
    """Nanoseconds that only pass when the test, or a look, lets them."""

    def __init__(self) -> None:
        self.now = 1
        self.yields = 0
        self.step = 1000  # of each yield

    def __call__(self) -> int:
        return self.now

    def give_way(self) -> None:
        self.yields += 1
        self.now += self.step


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(spinning, "_clock", clock)
    monkeypatch.setattr(spinning, "_give_way", clock.give_way)
    return clock


def test_it_looks_until_something_is_found(clock: Clock) -> None:
    looks = iter([None, None, "found"])
    assert Spin(50).until(lambda: next(looks)) == "found"
    assert clock.yields == 3


@pytest.mark.parametrize(("for_remote", "looks"), [(False, 50), (True, 400)])
def test_it_looks_for_so_long(clock: Clock, for_remote: bool, looks: int) -> None:
    assert Spin(50, for_remote=for_remote).until(lambda: None) is None
    assert clock.yields == looks


@pytest.mark.parametrize(("for_remote", "step"), [(False, 31_000), (True, 61_000)])
def test_it_leaves_its_core_to_who_wants_it(clock: Clock, for_remote: bool, step: int) -> None:
    clock.step = step
    assert Spin(1000, for_remote=for_remote).until(lambda: None) is None
    assert clock.yields == 1


def test_it_rests_after_several_spins_in_vain(clock: Clock) -> None:
    spin = Spin(50)
    for _ in range(4):
        spin.until(lambda: None)
    clock.yields = 0
    for _ in range(64):
        assert spin.until(lambda: "there") is None
    assert clock.yields == 0
    assert spin.until(lambda: "there") == "there"


def test_zero_never_looks(clock: Clock) -> None:
    assert Spin(0).until(lambda: "there") is None
    assert not Spin(0, for_remote=True).goes_on()
    assert clock.yields == 0


@pytest.mark.usefixtures("clock")
def test_a_wait_with_looks_elsewhere_goes_on_for_so_long() -> None:
    spin = Spin(50, for_remote=True)
    assert sum(1 for _ in iter(spin.goes_on, False)) == 400


@pytest.mark.usefixtures("clock")
def test_a_wait_that_was_ended_in_time_is_not_in_vain() -> None:
    spin = Spin(50, for_remote=True)
    for _ in range(10):
        assert spin.goes_on()
        spin.end()
    for _ in range(4):  # in vain
        while spin.goes_on():
            pass
    assert not spin.goes_on()
