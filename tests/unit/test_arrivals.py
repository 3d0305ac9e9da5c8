"""Room for arriving requests: who gets it, who waits, whose turn it is, who is overdue."""

from __future__ import annotations

from typing import cast

import pytest

from kvserve import limits
from kvserve.worker.arrivals import Arrivals
from kvserve.worker.sessions import Session

ROOM_BYTES = 100


def sessions(count: int) -> list[Session]:
    """Arrivals only tells sessions apart."""
    return [cast(Session, object()) for _ in range(count)]


@pytest.fixture
def arrivals() -> Arrivals:
    return Arrivals(ROOM_BYTES)


def test_there_is_room_for_exactly_as_much_as_said(arrivals: Arrivals) -> None:
    first, second, third = sessions(3)
    assert arrivals.claim(first, 60, 0)
    assert arrivals.claim(second, 40, 0)
    assert not arrivals.is_short
    assert not arrivals.claim(third, 1, 0)
    assert arrivals.is_short


def test_a_claim_is_counted_once(arrivals: Arrivals) -> None:
    first, second = sessions(2)
    for _ in range(5):
        assert arrivals.claim(first, 60, 0)
    assert arrivals.claim(second, 40, 0)


def test_room_that_was_given_back_goes_to_who_waits(arrivals: Arrivals) -> None:
    first, second = sessions(2)
    assert arrivals.claim(first, 60, 0)
    assert not arrivals.claim(second, 60, 0)
    assert arrivals.admit(0) is None
    arrivals.release(first)
    assert arrivals.admit(0) is second
    assert not arrivals.is_short
    assert not arrivals.claim(first, 60, 0)  # it was really given to the second


def test_all_is_given_back_once(arrivals: Arrivals) -> None:
    (session,) = sessions(1)
    for _ in range(3):
        assert arrivals.claim(session, ROOM_BYTES, 0)
        arrivals.release(session)
        arrivals.release(session)
        arrivals.leave(session)
    assert not arrivals.claim(session, ROOM_BYTES + 1, 0)


def test_nobody_begins_while_others_wait(arrivals: Arrivals) -> None:
    admitted, waiting, newcomer = sessions(3)
    assert arrivals.may_be_read(newcomer)
    assert arrivals.claim(admitted, 60, 0)
    assert not arrivals.claim(waiting, 60, 0)
    assert not arrivals.may_be_read(newcomer)
    assert arrivals.may_be_read(admitted)  # it can go on
    arrivals.release(admitted)
    assert not arrivals.may_be_read(admitted)  # but not begin anew


def test_turns_go_round_in_order(arrivals: Arrivals) -> None:
    admitted, first, second, third = sessions(4)
    assert arrivals.claim(admitted, 60, 0)
    assert not arrivals.claim(first, 60, 0)
    for session in (second, third, second):  # to be told twice does not change the order
        assert not arrivals.may_be_read(session)
    arrivals.release(admitted)
    assert arrivals.admit(0) is first
    assert arrivals.admit(0) is second
    assert not arrivals.claim(second, 60, 0)  # too much yet: it remains the next
    assert arrivals.admit(0) is None
    arrivals.release(first)
    assert arrivals.admit(0) is second
    assert arrivals.admit(0) is third
    assert arrivals.admit(0) is None


def test_who_waits_and_leaves_holds_up_nobody(arrivals: Arrivals) -> None:
    admitted, first, second = sessions(3)
    assert arrivals.claim(admitted, 60, 0)
    assert not arrivals.claim(first, 60, 0)
    assert not arrivals.may_be_read(second)
    arrivals.leave(first)
    assert arrivals.admit(0) is second
    assert not arrivals.is_short


def test_slow_ones_are_overdue_only_while_others_wait(arrivals: Arrivals) -> None:
    old, young, waiting = sessions(3)
    late = limits.ARRIVAL_SECONDS + 1.5
    assert arrivals.claim(old, 30, 0)
    assert arrivals.claim(young, 30, 2)
    assert arrivals.claim(old, 30, 2)  # the same request, which began at 0
    assert arrivals.overdue(late) == []
    assert not arrivals.claim(waiting, 60, 2)
    assert arrivals.overdue(limits.ARRIVAL_SECONDS - 0.5) == []
    assert arrivals.overdue(late) == [old]
    arrivals.leave(old)
    assert arrivals.overdue(late) == []


def test_waiting_does_not_make_overdue(arrivals: Arrivals) -> None:
    """Time counts from when it may be read."""
    slow, patient, last = sessions(3)
    assert arrivals.claim(slow, 60, 0)
    assert not arrivals.claim(patient, 60, 0)
    arrivals.leave(slow)
    assert arrivals.admit(10) is patient
    assert not arrivals.claim(last, 60, 10)
    assert arrivals.overdue(10 + limits.ARRIVAL_SECONDS / 2) == []
    assert arrivals.overdue(10 + limits.ARRIVAL_SECONDS * 2) == [patient]
