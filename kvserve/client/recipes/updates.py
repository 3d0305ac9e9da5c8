"""A value that is changed by a function of it, whoever else changes it meanwhile.

Nothing is held while the function runs: its result is stored only if the key still has the version
that it was computed from (`cas`, or `add` for a missing key); if not, it is computed again. So no
change is lost, one of those that compete always succeeds, and a process that dies blocks nobody.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Coroutine
from typing import Any

from kvserve import limits
from kvserve.client.calls.markers import UNCHANGED
from kvserve.client.calls.operations import TTL, Key, Operations
from kvserve.client.recipes.driver import Driver
from kvserve.client.recipes.single_flight import as_read
from kvserve.errors import ServerBusy

_AT_ONCE = 4  # attempts before others are given way
_PAUSE_SECONDS = 0.0005
_PAUSE_SECONDS_MAX = 0.05


async def update(
    driver: Driver,
    operations: Operations,
    key: Key,
    function: Callable[[Any], Coroutine[Any, Any, Any]],
    default: Any,
    ttl: TTL,
) -> Any:
    """See `Client.update`."""
    operations.ttl_ms(ttl)  # before the function is called
    for attempt in range(limits.UPDATE_ATTEMPTS_MAX):
        if attempt >= _AT_ONCE:
            longest = min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS * 2 ** min(attempt, 16))
            await driver.sleep(random.uniform(0, longest))
        held, version = await driver.gets(key)
        before = copy.deepcopy(default) if version is None else held
        value = await function(before)
        if value is UNCHANGED:
            return default if version is None else held
        if version is None:
            done = await driver.run(operations.add(key, value, ttl))
        elif ttl is None:
            done = await driver.run(operations.cas(key, value, version, keep_ttl=True))
        else:
            done = await driver.run(operations.cas(key, value, version, ttl))
        if done:
            return as_read(value, driver.values)
    raise ServerBusy(
        f"others changed the key {key!r:.80} during each of {limits.UPDATE_ATTEMPTS_MAX} attempts; "
        "make the function faster, or take a lock"
    )
