"""Room for arriving requests: who gets it, who waits, whose turn it is, who has stalled."""

from __future__ import annotations

from typing import cast

import pytest

from kvserve import limits
from kvserve.worker.frontends.arrivals import Arrivals
from kvserve.worker.frontends.session import Session

ROOM_BYTES = 100


def sessions(count: int) -> list[Session]:
    """Arrivals only tells sessions apart."""
    return [cast(Session, object()) for _ in range(count)]


@pytest.fixture
def arrivals() -> Arrivals:
    return Arrivals(ROOM_BYTES)


def fill(arrivals: Arrivals, *sizes: int) -> list[Session]:
    """Sessions that were admitted with requests of these sizes, one after the other."""
    admitted = sessions(len(sizes))
    for session, size in zip(admitted, sizes, strict=True):
        assert arrivals.reserve(session, size, 0)
    return admitted


def test_a_request_may_take_a_quarter_of_what_is_free(arrivals: Arrivals) -> None:
    fill(arrivals, 20)
    too_large, largest, next_one = sessions(3)
    assert not arrivals.reserve(too_large, 21, 0)
    assert arrivals.is_short
    assert arrivals.reserve(largest, 20, 0)
    assert arrivals.reserve(next_one, 15, 0)


def test_alone_it_may_take_everything(arrivals: Arrivals) -> None:
    fill(arrivals, ROOM_BYTES)


@pytest.mark.parametrize("large", [100, 30, 8, 3])
def test_however_many_large_ones_stand_still_smaller_ones_find_room(large: int) -> None:
    arrivals = Arrivals(ROOM_BYTES * 1000)
    stalled = sessions(200)
    for session in stalled:
        arrivals.reserve(session, large * 1000, 0)
    assert arrivals.reserve(sessions(1)[0], large * 100, 0.1) == (large < 100)
    assert sum(arrivals.may_be_read(session) for session in stalled) * large <= ROOM_BYTES


def test_a_claim_is_counted_once(arrivals: Arrivals) -> None:
    first, second = sessions(2)
    for _ in range(5):
        assert arrivals.reserve(first, 60, 0)
    assert arrivals.reserve(second, 10, 0)


def test_room_that_was_given_back_goes_to_who_waits(arrivals: Arrivals) -> None:
    (first,) = fill(arrivals, 60)
    (second,) = sessions(1)
    assert not arrivals.reserve(second, 60, 0)
    assert arrivals.admit(0) is None
    arrivals.release(first)
    assert arrivals.admit(0) is second
    assert not arrivals.is_short
    assert not arrivals.reserve(first, 60, 0)  # it was really given to the second


def test_all_is_given_back_once(arrivals: Arrivals) -> None:
    (session,) = sessions(1)
    for _ in range(3):
        assert arrivals.reserve(session, 96, 0)
        arrivals.release(session)
        arrivals.release(session)
        arrivals.leave(session)
    fill(arrivals, 60, 10)
    assert not arrivals.reserve(session, 8, 0)


def test_who_waits_is_not_read_and_others_are(arrivals: Arrivals) -> None:
    (admitted,) = fill(arrivals, 60)
    waiting, newcomer = sessions(2)
    assert not arrivals.reserve(waiting, 60, 0)
    assert not arrivals.may_be_read(waiting)
    assert arrivals.may_be_read(admitted)
    assert arrivals.may_be_read(newcomer)


def test_the_room_of_who_waits_for_long_is_kept_free(arrivals: Arrivals) -> None:
    late = limits.ARRIVAL_AGED_SECONDS
    first, _ = fill(arrivals, 60, 4)
    old, early, small = sessions(3)
    assert not arrivals.reserve(old, 95, 0)
    assert arrivals.reserve(early, 5, late / 2)
    assert not arrivals.reserve(small, 1, late)
    arrivals.release(first)
    assert arrivals.admit(late) is None  # 4 and 5 are on their way still
    arrivals.leave(early)
    assert arrivals.admit(late) is old
    assert not arrivals.may_be_read(small)
    arrivals.release(old)
    assert arrivals.admit(late) is small


def test_turns_go_round_in_order(arrivals: Arrivals) -> None:
    (admitted,) = fill(arrivals, 60)
    first, second, third = sessions(3)
    for session in (first, second, third, second):  # to be told twice does not change the order
        assert not arrivals.reserve(session, 30, 0)
    arrivals.release(admitted)
    assert arrivals.admit(0) is first
    assert arrivals.admit(0) is None
    arrivals.release(first)
    assert arrivals.admit(0) is second
    arrivals.release(second)
    assert arrivals.admit(0) is third
    assert arrivals.admit(0) is None


def test_who_waits_and_leaves_holds_up_nobody(arrivals: Arrivals) -> None:
    late = limits.ARRIVAL_AGED_SECONDS
    fill(arrivals, 60)
    first, second = sessions(2)
    assert not arrivals.reserve(first, 60, 0)
    assert not arrivals.reserve(second, 8, late)
    arrivals.leave(first)
    assert arrivals.admit(late) is second
    assert not arrivals.is_short


def test_one_users_find_room_beside_anothers() -> None:
    user = {}
    arrivals = Arrivals(ROOM_BYTES, lambda session: user[id(session)])
    arrivals.users = 2
    crowd, (other,) = sessions(200), sessions(1)
    user |= {id(session): 1 for session in crowd} | {id(other): 2}
    for session in crowd:
        arrivals.reserve(session, 5, 0)
    assert sum(arrivals.may_be_read(session) for session in crowd) == 10  # half of the room
    assert arrivals.reserve(other, 10, 0)


def test_stalled_ones_are_ended_only_while_others_wait(arrivals: Arrivals) -> None:
    late = limits.ARRIVAL_STALL_SECONDS * 1.5
    old, newer = fill(arrivals, 30, 5)
    (waiting,) = sessions(1)
    arrivals.note(newer, 1, late / 9)
    assert arrivals.stalled(late) is None
    assert not arrivals.reserve(waiting, 60, late)
    assert arrivals.stalled(late / 3) is None
    assert arrivals.stalled(late) is old
    arrivals.leave(old)
    assert arrivals.stalled(late) is newer
    arrivals.leave(newer)
    assert arrivals.stalled(late) is None


def test_who_sends_by_drops_is_stalled() -> None:
    mib = limits.MIB
    arrivals = Arrivals(100 * mib)
    fast, slow = fill(arrivals, 50 * mib, 8 * mib)
    assert not arrivals.reserve(sessions(1)[0], 50 * mib, 0)
    for step in range(1, 20):  # a byte now, and a byte then: something always came just now
        now = step * limits.ARRIVAL_STALL_SECONDS / 5
        arrivals.note(slow, step, now)
        arrivals.note(fast, step * mib, now)
        if (stalled := arrivals.stalled(now)) is not None:
            assert stalled is slow
            break
    else:
        pytest.fail("never stalled")
    arrivals.leave(slow)
    arrivals.note(fast, 49 * mib, limits.ARRIVAL_SECONDS + 0.1)
    assert arrivals.stalled(limits.ARRIVAL_SECONDS + 0.1) is fast  # nor for ever


def test_waiting_and_being_executed_do_not_stall(arrivals: Arrivals) -> None:
    """Time counts from when it may be read to when it has come."""
    slow, done = fill(arrivals, 60, 8)
    patient, last = sessions(2)
    arrivals.keep(done)
    assert not arrivals.reserve(patient, 60, 0)
    arrivals.leave(slow)
    assert arrivals.admit(10) is patient
    assert not arrivals.reserve(last, 60, 10)
    assert arrivals.stalled(10 + limits.ARRIVAL_STALL_SECONDS / 2) is None
    assert arrivals.stalled(10 + limits.ARRIVAL_STALL_SECONDS * 2) is patient
    arrivals.leave(patient)
    assert arrivals.stalled(1000) is None
