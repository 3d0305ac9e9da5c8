"""A lock's fencing number that somebody has overwritten."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.crews import TIMEOUT
from support.servers import Server

import kvserve
from kvserve.errors import InvalidValue

FENCE = "kvserve:fence:job"


VALUES = ["many", "", "-1", "\u0663", "1" * 100, 7, None, b"7", [1]]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_is_no_number_is_told_and_the_lock_is_free(
    served: Server, cache: kvserve.Client, value: Any
) -> None:
    cache.set(FENCE, value)

    async def acquire() -> None:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:
            await client.lock("job").acquire(timeout=0)

    for attempt in (lambda: cache.lock("job").acquire(timeout=0), lambda: asyncio.run(acquire())):
        with pytest.raises(InvalidValue, match=f"'{FENCE}' holds .* delete it"):
            attempt()
        assert "kvserve:lock:job" not in cache
    cache.delete(FENCE)
    with cache.lock("job", timeout=0) as lock:
        assert lock.fencing == int(cache[FENCE])
