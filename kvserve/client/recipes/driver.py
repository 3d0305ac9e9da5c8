"""A client as the recipes see it, so that their decisions are written once for both clients.

The decisions are coroutines over a `Driver`. Those over an asyncio client are awaited. A blocking
client's driver never suspends, so that `run_to_end` runs such a coroutine to its end in one step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from kvserve.client.calls.operations import Key, from_ttl_ms
from kvserve.client.contract import AsyncCache, Cache
from kvserve.client.deadlines import within
from kvserve.errors import UnreadableValue
from kvserve.table._core import AskWorker

T = TypeVar("T")
Method = Callable[..., Coroutine[Any, Any, Any]]


class Driver:
    """Some of a client's methods as coroutines, under their own names.

    Args:
        client: the client.
        as_coroutine: makes a coroutine function of each method.
        sleep: the coroutine that waits for some seconds.
        within: awaits a coroutine function with its arguments; all its requests together have so
            many seconds.
    """

    def __init__(
        self,
        client: Cache | AsyncCache,
        as_coroutine: Callable[[Callable[..., Any]], Method],
        sleep: Method,
        within: Method,
    ) -> None:
        strict = client._strict
        self._get = as_coroutine(strict.get)
        self.gets = as_coroutine(strict.gets)
        self.ttl = as_coroutine(strict.ttl)
        self.set = as_coroutine(strict.set)
        self.add = as_coroutine(strict.add)
        self.cas = as_coroutine(strict.cas)
        self.delete = as_coroutine(strict.delete)
        self.run = as_coroutine(strict._run)
        self.sleep = sleep
        self.within = within
        self._client = client
        self.values = client._operations.values

    async def get(self, key: Key, default: Any = None) -> Any:
        """As the client's; an unreadable value counts as missing, and is stored anew."""
        try:
            return await self._get(key, default)
        except UnreadableValue:
            return default

    @classmethod
    def of(cls, client: Cache) -> Driver:
        """The driver of a blocking client."""
        return cls(client, as_coroutine, as_coroutine(time.sleep), _within)

    @property
    def timeout(self) -> float:
        """The client's: seconds for a request, or for several that serve one purpose."""
        return self._client._timeout_seconds

    def is_seen(self, key: Key) -> bool:
        """Whether this process sees a key in shared memory. Asks no worker; counts as no read."""
        ttl_ms = self._client._ttl_ms(key)
        return not isinstance(ttl_ms, AskWorker) and from_ttl_ms(ttl_ms) is not None


async def _within(seconds: float, function: Method, *args: Any) -> Any:
    return within(seconds, _finished, function, *args)


def _finished(function: Method, *args: Any) -> Any:
    return run_to_end(function(*args))


def as_coroutine(function: Callable[..., T]) -> Callable[..., Coroutine[Any, Any, T]]:
    """The function as a coroutine that never suspends."""

    async def call(*args: Any, **kwargs: Any) -> T:
        return function(*args, **kwargs)

    return call


def run_to_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that never suspends, and returns what it returns."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("a coroutine over a blocking client suspended")
