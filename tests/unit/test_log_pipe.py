"""A worker's log lines: of each kind so many, and the count of those that were left out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from kvserve import limits
from kvserve.worker.log_pipe import PipeHandler


class Clock:
    """Seconds that the test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.fixture
def log(ends: tuple[int, int], clock: Clock) -> Iterator[logging.Logger]:
    logger = logging.Logger("test")
    logger.addHandler(PipeHandler(ends[1], clock))
    yield logger
    logger.handlers.clear()


def lines(ends: tuple[int, int]) -> list[str]:
    os.write(ends[1], b"end\n")  # so that there is something to read
    return os.read(ends[0], 65_536).decode().splitlines()[:-1]


def refuse(log: logging.Logger, count: int) -> None:
    for number in range(count):
        log.warning("client %d is refused", number)


def test_of_each_kind_some_are_written(log: logging.Logger, ends: tuple[int, int]) -> None:
    refuse(log, 500)
    for number in range(3):
        log.error("something else: %d", number)
    written = lines(ends)
    some = limits.LOG_LINES_AT_ONCE
    assert written[:some] == [f"<4>client {number} is refused" for number in range(some)]
    assert written[some:] == [f"<3>something else: {number}" for number in range(3)]


def test_what_was_left_out_is_told_when_it_is_quiet(
    log: logging.Logger, ends: tuple[int, int], clock: Clock
) -> None:
    (handler,) = log.handlers
    assert isinstance(handler, PipeHandler)
    refuse(log, 500)
    handler.tell_suppressed()
    assert len(lines(ends)) == limits.LOG_LINES_AT_ONCE  # not yet
    clock.seconds += limits.LOG_QUIET_SECONDS
    handler.tell_suppressed()
    handler.tell_suppressed()
    told = f"<4>suppressed {500 - limits.LOG_LINES_AT_ONCE} lines such as: client 499 is refused"
    assert lines(ends) == [told]


def test_a_flood_that_goes_on_is_told_of_all_along(
    log: logging.Logger, ends: tuple[int, int], clock: Clock
) -> None:
    refuse(log, 30)
    lines(ends)
    clock.seconds += 2 / limits.LOG_LINES_A_SECOND
    refuse(log, 10)
    written = lines(ends)
    assert written[0].startswith("<4>suppressed 10 lines such as")
    assert written[1:] == ["<4>client 0 is refused", "<4>client 1 is refused"]
    clock.seconds += 3600
    refuse(log, 500)
    assert len(lines(ends)) == 1 + limits.LOG_LINES_AT_ONCE  # no more, however long it was quiet
