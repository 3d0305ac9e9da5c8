"""limits over a real server: every strategy, several processes, Flask-Limiter, slowapi."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import time
from typing import Any

import pytest
from support.servers import Server, StartServer

pytest.importorskip("limits")
import limits
import limits.aio.strategies
import limits.strategies
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string

import kvserve
from kvserve.integrations.limits import AsyncKvserveStorage, KvserveStorage

KINDS = ("FixedWindowRateLimiter", "MovingWindowRateLimiter", "SlidingWindowCounterRateLimiter")


class Blocking:
    """A limiter of asyncio with blocking methods, so that both kinds have the same tests."""

    def __init__(self, limiter: Any) -> None:
        self._limiter = limiter

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: asyncio.run(getattr(self._limiter, name)(*args, **kwargs))


@pytest.fixture(params=["kvserve", "async+kvserve"])
def storage(request: pytest.FixtureRequest, served: Server, namespace: str) -> Any:
    return storage_from_string(f"{request.param}://{served.name}", namespace=namespace)


def limiter_of(storage: Any, kind: str) -> Any:
    if isinstance(storage, AsyncKvserveStorage):
        return Blocking(getattr(limits.aio.strategies, kind)(storage))
    return getattr(limits.strategies, kind)(storage)


@pytest.mark.parametrize("kind", KINDS)
def test_every_strategy(storage: Any, kind: str) -> None:
    limiter, item = limiter_of(storage, kind), limits.parse("5 per minute")
    began = time.time()
    empty = limiter.get_window_stats(item, "ada")
    assert empty.remaining == 5
    assert [limiter.hit(item, "ada", cost=2) for _ in range(3)] == [True, True, False]
    assert limiter.hit(item, "bob")
    assert not limiter.hit(item, "cy", cost=6)
    if kind != "FixedWindowRateLimiter":  # whose refused hits count
        assert limiter.test(item, "ada", cost=1)
        assert not limiter.test(item, "ada", cost=2)
        stats = limiter.get_window_stats(item, "ada")
        assert stats.remaining == 1
        assert began < stats.reset_time <= time.time() + 120
    limiter.clear(item, "ada")
    assert limiter.get_window_stats(item, "ada").remaining == 5
    assert limiter.get_window_stats(item, "bob").remaining == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_ends(storage: Any, kind: str, eventually: Any) -> None:
    limiter, item = limiter_of(storage, kind), limits.parse("1 per second")
    assert limiter.hit(item, "ada")
    eventually(lambda: limiter.hit(item, "ada"))


def test_reset_and_check(storage: Any) -> None:
    limiter, item = limiter_of(storage, KINDS[0]), limits.parse("1 per minute")
    moving = limiter_of(storage, KINDS[1])
    assert limiter.hit(item, "ada")
    assert moving.hit(item, "ada")
    plain = Blocking(storage) if isinstance(storage, AsyncKvserveStorage) else storage
    assert plain.check()
    assert plain.reset() == 1
    assert limiter.hit(item, "ada")
    assert moving.hit(item, "ada")


HITS = """
import sys, limits, kvserve.integrations.limits
from limits.storage import storage_from_string
storage = storage_from_string(sys.argv[1])
item = limits.parse("100 per hour")
limiters = [getattr(limits.strategies, kind)(storage) for kind in sys.argv[2:]]
print(*(sum(each.hit(item, "all") for _ in range(60)) for each in limiters))
"""


def test_the_limit_is_exact_over_processes(served: Server, namespace: str) -> None:
    url = f"kvserve://{served.name}?namespace={namespace}"
    command = [sys.executable, "-c", HITS, url, *KINDS]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    counts = [[int(each) for each in process.communicate()[0].split()] for process in running]
    assert [sum(each) for each in zip(*counts, strict=True)] == [100, 100, 100]


@pytest.mark.usefixtures("own_clients")
def test_a_server_that_is_down(make_server: StartServer, new_names: Any) -> None:
    """An application boots; a hit raises, as with all storages, until the server is there."""
    names = new_names()
    url = f"kvserve://{names.name}?timeout=0.5"
    item = limits.parse("1 per minute")
    plain, wrapped = storage_from_string(url), storage_from_string(url, wrap_exceptions=True)
    assert not plain.check()
    with pytest.raises(kvserve.ServerUnavailable):
        limits.strategies.FixedWindowRateLimiter(plain).hit(item)
    with pytest.raises(StorageError):
        limits.strategies.MovingWindowRateLimiter(wrapped).hit(item)
    server = make_server(names=names)
    assert plain.check()
    assert limits.strategies.FixedWindowRateLimiter(plain).hit(item)
    server.stop()
    assert not plain.check()
    make_server(names=names)
    assert not limits.strategies.FixedWindowRateLimiter(plain).hit(item)


def test_options(served: Server) -> None:
    with pytest.raises(kvserve.InvalidArgument, match="timout"):
        KvserveStorage(f"kvserve://{served.name}?timout=1")
    with pytest.raises(ConfigurationError):
        storage_from_string("kvserved://")


def test_flask_limiter(served: Server, namespace: str) -> None:
    pytest.importorskip("flask_limiter")
    from flask import Flask
    from flask_limiter import Limiter
    from flask_limiter.util import get_remote_address

    for strategy in ("fixed-window", "moving-window", "sliding-window-counter"):
        app = Flask(f"limited-{secrets.token_hex(2)}")
        limiter = Limiter(
            get_remote_address,
            app=app,
            storage_uri=f"kvserve://{served.name}?namespace={namespace}{strategy}",
            strategy=strategy,
            default_limits=["2 per minute"],
            headers_enabled=True,
        )
        app.get("/")(lambda: "tea")
        client = app.test_client()
        answers = [client.get("/") for _ in range(3)]
        assert [each.status_code for each in answers] == [200, 200, 429], strategy
        assert answers[0].headers["X-RateLimit-Remaining"] == "1"
        assert limiter.enabled


def test_slowapi(served: Server, namespace: str) -> None:
    pytest.importorskip("slowapi")
    from slowapi import Limiter, _rate_limit_exceeded_handler
    from slowapi.errors import RateLimitExceeded
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from support.asgi import ask

    limiter = Limiter(
        key_func=lambda: "all", storage_uri=f"kvserve://{served.name}?namespace={namespace}"
    )

    @limiter.limit("2/minute")
    async def tea(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.url.path)

    app = Starlette(routes=[Route("/", tea)])
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)

    async def three() -> list[int]:
        return [(await ask(app, "/")).status for _ in range(3)]

    assert asyncio.run(three()) == [200, 200, 429]
