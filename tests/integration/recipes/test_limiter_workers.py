"""Limiters and the workers, which alone write their state: they die, and they are stopped."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from support.crews import KINDS, TIMEOUT
from support.servers import Server, StartServer, stopped

import kvserve
from kvserve.errors import ServerError


def test_look_and_reset_are_repeated_when_the_worker_dies(server: Server) -> None:
    with server.connect(timeout=TIMEOUT) as cache:
        limiter = cache.limiter("api", rate=2, per=3600)
        assert limiter.hit("me")
        for pid in server.worker_pids:
            os.kill(pid, signal.SIGKILL)
        assert limiter.peek("me").used == 1
        for pid in server.worker_pids:
            os.kill(pid, signal.SIGKILL)
        assert limiter.reset("me")
        assert limiter.peek("me").used == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_trusted_writer_leaves_limiters_to_the_workers(
    make_server: StartServer, kind: str
) -> None:
    """They alone write a limiter's state, or a reset could be undone by a hit under way."""
    server = make_server("--writers", "2", "--workers", "1")

    async def main() -> None:
        async with await kvserve.connect_async(server.name, timeout=0.2, write="direct") as cache:
            for name in ("hit", "peek", "reset"):
                with pytest.raises(ServerError):
                    await getattr(cache.limiter("api", rate=5, per=3600), name)("me")

    with server.connect(timeout=0.2, write="direct") as cache:
        assert cache.limiter("api", rate=5, per=3600).hit("me")
        with stopped(server.worker_pids[0]):
            cache.set("key", "value")  # which needs no worker
            if kind == "asyncio":
                asyncio.run(main())
            else:
                for name in ("hit", "peek", "reset"):
                    with pytest.raises(ServerError):
                        getattr(cache.limiter("api", rate=5, per=3600), name)("me")
