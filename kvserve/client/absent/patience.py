"""Making a client as soon as its server is there, for the caller who waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from kvserve.errors import ServerUnavailable

T = TypeVar("T")
_PAUSE_SECONDS_FIRST = 0.005
_PAUSE_SECONDS_MAX = 0.05  # a look costs 30 us


def pauses() -> Iterator[float]:
    """Seconds between two looks for a server."""
    pause = _PAUSE_SECONDS_FIRST
    while True:
        yield pause
        pause = min(2 * pause, _PAUSE_SECONDS_MAX)


def made(make: Callable[[], T], wait_seconds: float) -> T:
    """What `make` returns, as soon as a server is there.

    Raises:
        ServerUnavailable: it was not there in time.
    """
    give_up = time.monotonic() + wait_seconds
    for pause in pauses():
        try:
            return make()
        except ServerUnavailable:
            if time.monotonic() >= give_up:
                raise
        time.sleep(pause)
    raise AssertionError("pauses have no end")


async def made_async(make: Callable[[], T], wait_seconds: float) -> T:
    """See `made`; the event loop goes on meanwhile."""
    import asyncio  # not above: most programs that import this have no event loop

    give_up = time.monotonic() + wait_seconds
    for pause in pauses():
        try:
            return make()
        except ServerUnavailable:
            if time.monotonic() >= give_up:
                raise
        await asyncio.sleep(pause)
    raise AssertionError("pauses have no end")
