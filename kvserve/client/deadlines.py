"""One deadline for a call that is made of several requests.

Each request has the client's timeout. A call that sends several requests sets one deadline for all
of them: so a lock with `timeout=1` gives up after a second, although its client waits for two, and
although it asks three times. The deadline is a context variable, so that neither the clients'
methods nor the recipes need to pass it on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

from kvserve.client._scopes import with_value, with_value_async
from kvserve.errors import ServerBusy

T = TypeVar("T")

_deadline: ContextVar[float] = ContextVar("kvserve_deadline", default=math.inf)


def deadline_of(now: float, timeout: float) -> float:
    """The deadline of a request that begins now.

    Args:
        now: seconds on the monotonic clock.
        timeout: seconds for each request.

    Raises:
        ServerBusy: the call that it belongs to has no time left; the request was not sent.
    """
    whole = _deadline.get()
    if whole <= now:
        raise ServerBusy("the time of this call was over before its last request was sent")
    return min(now + timeout, whole)


def is_over() -> bool:
    """Whether the current call has no time left."""
    return _deadline.get() <= time.monotonic()


def within(seconds: float, function: Callable[..., T], *args: Any) -> T:
    """Runs a function whose requests together may take so many seconds; returns its result."""
    return with_value(_deadline, _earlier(seconds), function, *args)


def within_async(
    seconds: float, function: Callable[..., Awaitable[T]], *args: Any
) -> Coroutine[Any, Any, T]:
    """The same for a coroutine function."""
    return with_value_async(_deadline, _earlier(seconds), function, *args)


def _earlier(seconds: float) -> float:
    return min(time.monotonic() + seconds, _deadline.get())
