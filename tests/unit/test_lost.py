"""What a client remembers of losses: LostKeys against a model, and the breaker without a server."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from conftest import Eventually
from hypothesis import given
from hypothesis import strategies as st

from kvserve.client.absent.lost import LostKeys, Told
from kvserve.client.absent.outage import Outage
from kvserve.errors import InvalidKey, LockTimeout, ServerError, ServerUnavailable, StoreUnavailable
from kvserve.names import instance

KEYS = st.sampled_from(["a", "b", "c", "d", "e"])
TAG_NAMES = ["kvserve:tag:x", "kvserve:tag:y"]
NAMES = st.sampled_from(["a", *TAG_NAMES, "kvserve:tags"])


@given(st.lists(st.one_of(st.lists(KEYS, max_size=3), st.sampled_from(["tell", "told", "flush"]))))
def test_nothing_is_forgotten_that_was_not_told(steps: list[list[str] | str]) -> None:
    """However losses and tellings come between each other; the memory holds at most three keys."""
    lost = LostKeys(keys_max=3)
    untold: set[str] = set()  # since the last `tell`; everything: "*"
    pending: set[str] = set()  # told, but not confirmed
    told: Told | None = None
    for step in steps:
        if step == "tell":
            told = lost.to_tell()
            pending, untold = pending | untold, set()
        elif step == "told":
            if told is not None:
                lost.forget(told)
                told, pending = None, set()
        elif step == "flush":
            lost.add_everything()
            untold.add("*")
        else:
            lost.add(list(step))
            untold |= set(step)
        for key in untold | pending:
            assert lost.has("z" if key == "*" else key), (step, key)
        assert len(lost) <= 3
        if not untold | pending:
            assert not lost


@given(st.lists(st.one_of(st.lists(NAMES, max_size=3), st.sampled_from(["tell", "told"]))))
def test_it_knows_whether_tags_are_lost(steps: list[list[str] | str]) -> None:
    lost = LostKeys(keys_max=3)
    told = lost.to_tell()
    for step in steps:
        if step == "tell":
            told = lost.to_tell()
        elif step == "told":
            lost.forget(told)
        else:
            lost.add(list(step))
        are_lost = any(lost.has(name) for name in TAG_NAMES)
        assert lost.is_everything or lost.has_tags == are_lost


class Teller:
    """Stands for a server: refuses until it is let."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.told: list[Told] = []

    def __call__(self, told: Told) -> None:
        if not self.answers.is_set():
            raise ServerUnavailable("no server")
        self.told.append(told)


@pytest.fixture
def teller() -> Teller:
    """A server that is not there yet."""
    return Teller()


class Owner:
    """Stands for a client."""

    def __init__(self) -> None:
        self._reader = SimpleNamespace()


def made(teller: Callable[[Told], None]) -> tuple[Outage, Owner]:
    """An outage, and its owner, to be kept."""
    owner = Owner()
    return Outage(instance("test-outage"), teller, owner), owner


def test_it_refuses_until_the_server_was_told(teller: Teller, eventually: Eventually) -> None:
    outage, _owner = made(teller)
    outage.check()
    outage.lose_write(ServerUnavailable("gone"), ["key"])
    for _ in range(3):
        with pytest.raises(ServerUnavailable):
            outage.check()
    assert outage.has_lost("key")
    assert outage.has_lost(b"key")
    assert not outage.has_lost("other")
    with pytest.raises(InvalidKey):
        outage.has_lost("")
    teller.answers.set()
    eventually(lambda: outage.lost.error is None)
    assert [set(told.keys) for told in teller.told] == [{b"key"}]
    assert not outage.has_lost("key")
    outage.check()


def test_a_key_that_is_lost_again_meanwhile_is_told_again(eventually: Eventually) -> None:
    told: list[set[bytes]] = []

    def tell(what: Told) -> None:
        told.append(set(what.keys))
        if len(told) == 1:
            outage.lose_write(ServerUnavailable("gone"), ["key"])

    outage, _owner = made(tell)
    outage.lose_write(ServerUnavailable("gone"), ["key"])
    eventually(lambda: outage.lost.error is None)
    assert told == [{b"key"}, {b"key"}]


def test_steady_writes_do_not_keep_it_open(eventually: Eventually) -> None:
    """In each moment while the server is told, more is lost; its answer ends that."""
    is_there = threading.Event()
    ended = threading.Event()

    def tell(_: Told) -> None:
        if not is_there.is_set():
            raise ServerUnavailable("no server")
        time.sleep(0.02)

    def write() -> None:
        while not ended.wait(0.0005):
            try:
                outage.check()
            except ServerUnavailable as error:
                outage.lose_write(error, ["key"])

    outage, _owner = made(tell)
    outage.lose_write(ServerUnavailable("gone"), ["key"])
    writers = [threading.Thread(target=write) for _ in range(3)]
    for each in writers:
        each.start()
    is_there.set()
    try:
        eventually(lambda: outage.lost.error is None)
    finally:
        ended.set()
        for each in writers:
            each.join()
    eventually(lambda: not outage.has_lost("key"))


def test_what_is_about_one_request_does_not_open_it(teller: Teller) -> None:
    outage, _owner = made(teller)
    outage.failed(LockTimeout("held"))
    outage.failed(StoreUnavailable("slow"))
    outage.check()
    outage.lose_write(StoreUnavailable("slow"), ["key"])  # but this is to be told
    with pytest.raises(ServerError):  # that one, or what the thread has heard since
        outage.check()
    outage.is_over = True


def test_its_thread_ends_with_the_client(teller: Teller, eventually: Eventually) -> None:
    before = _thread._count()
    for is_closed in (True, False):
        outage, owner = made(teller)
        outage.failed(ServerUnavailable("gone"))
        time.sleep(0.05)
        if is_closed:
            outage.is_over = True
        del owner, outage
        eventually(lambda: _thread._count() <= before)


def test_a_fault_of_ours_does_not_leave_it_open(
    eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that tells dies with it; the next request begins another."""
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    calls: list[Told] = []

    def tell(what: Told) -> None:
        calls.append(what)
        if len(calls) == 1:
            raise ZeroDivisionError

    outage, _owner = made(tell)
    outage.failed(ServerUnavailable("gone"))
    eventually(lambda: calls)

    def closed() -> bool:
        try:
            outage.check()
        except ServerUnavailable:
            return False
        return True

    eventually(closed)
