"""The circuit breaker, on a clock that the test moves."""

from __future__ import annotations

from kvserve.store.breaker import FAILURES_MAX, PAUSE_SECONDS_FIRST, Breaker, State


class Clock:
    """A clock that stands still unless it is told."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(FAILURES_MAX):
        assert breaker.may_try()
        breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(Clock())
    for _ in range(3 * FAILURES_MAX):
        for _ in range(FAILURES_MAX - 1):
            breaker.failed()
        breaker.succeeded()
    assert breaker.state is State.CLOSED
    assert opened(Clock()).state is State.OPEN


def test_open_it_refuses_until_the_pause_is_over_and_then_lets_one_through() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert breaker.refuses
    assert not breaker.may_try()
    clock.seconds += PAUSE_SECONDS_FIRST
    assert not breaker.refuses
    assert breaker.may_try()
    assert breaker.state is State.HALF_OPEN
    assert breaker.refuses
    assert not breaker.may_try()


def test_a_probe_that_succeeds_closes_it() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.seconds += PAUSE_SECONDS_FIRST
    breaker.may_try()
    breaker.succeeded()
    assert breaker.state is State.CLOSED
    assert breaker.may_try()


def test_a_probe_that_fails_doubles_the_pause() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.seconds += PAUSE_SECONDS_FIRST
    breaker.may_try()
    breaker.failed()
    clock.seconds += PAUSE_SECONDS_FIRST
    assert not breaker.may_try()
    clock.seconds += PAUSE_SECONDS_FIRST
    assert breaker.may_try()
    assert breaker.openings == 2


def test_late_answers_of_calls_from_before_change_nothing() -> None:
    breaker = opened(Clock())
    breaker.succeeded()
    breaker.failed()
    assert breaker.state is State.OPEN
    assert breaker.openings == 1
