"""Signals become events: handlers only enqueue, and a forked child is rid of them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kvserve.parent.signals import HANDLED, SignalInbox, held_back


@pytest.fixture
def inbox() -> Iterator[SignalInbox]:
    inbox = SignalInbox()
    yield inbox
    inbox.close()


def readable(inbox: SignalInbox) -> bool:
    return bool(select.select([inbox], [], [], 0)[0])


def test_nothing_came(inbox: SignalInbox) -> None:
    assert inbox.take() == []
    assert not readable(inbox)


@pytest.mark.parametrize("number", HANDLED)
def test_a_signal_wakes_the_selector(inbox: SignalInbox, number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    assert readable(inbox)
    assert inbox.take() == [number]
    assert not readable(inbox)


def test_signals_come_in_their_order(inbox: SignalInbox) -> None:
    sent = [signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP]
    for number in sent:
        os.kill(os.getpid(), number)
    assert inbox.take() == sent


def test_a_flood_of_signals_neither_blocks_nor_warns(inbox: SignalInbox) -> None:
    for _ in range(20_000):
        os.kill(os.getpid(), signal.SIGUSR1)
    taken = []
    while batch := inbox.take():
        taken += batch
    assert set(taken) == {signal.SIGUSR1}


def test_a_signal_behind_a_flood_is_not_lost(inbox: SignalInbox) -> None:
    for _ in range(5000):
        os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    assert inbox.take()[-1] == signal.SIGTERM


def test_other_signals_are_not_taken(inbox: SignalInbox) -> None:
    previous = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert inbox.take() == []
    finally:
        signal.signal(signal.SIGUSR2, previous)


def test_the_former_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in HANDLED]
    inbox = SignalInbox()
    assert [signal.getsignal(number) for number in HANDLED] != before
    inbox.close()
    assert [signal.getsignal(number) for number in HANDLED] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_held_back_signals_come_later(inbox: SignalInbox) -> None:
    with held_back():
        signal.raise_signal(signal.SIGTERM)  # to this thread; the parent has no other
        assert inbox.take() == []
    assert inbox.take() == [signal.SIGTERM]


FORK = """
import os, signal, sys, time
from kvserve.parent.signals import SignalInbox, held_back

inbox = SignalInbox()
came, go = os.pipe()
with held_back():
    child = os.fork()
    if child == 0:
        os.read(came, 1)  # a signal is waiting for us now, still held back
        inbox.close_in_child()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        time.sleep(60)
        os._exit(7)
os.kill(child, signal.SIGHUP)
os.kill(child, signal.SIGTERM)
os.write(go, b"1")
_, status = os.waitpid(child, 0)
assert os.WTERMSIG(status) == signal.SIGTERM, status
assert [number.name for number in inbox.take()] == ["SIGCHLD"]
print("the parent heard of its child's end and of nothing else")
"""


def test_a_signal_to_a_new_child_does_not_reach_the_parents_inbox() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the parent heard")
