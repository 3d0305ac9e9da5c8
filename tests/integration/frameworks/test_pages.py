"""The pages about frameworks are tried as they stand, and the examples' own scripts."""

from __future__ import annotations

import asyncio
import http.server
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import NewNames
from support.leftovers import processes
from support.servers import clean_up

import kvserve
from kvserve.names import Names

DOCS = Path(__file__).parents[3] / "docs"
_PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
# A small server, as `start` takes its settings from the environment.
_SMALL = {"MEMORY": "16MiB", "MAX_VALUE": "64KiB", "QUEUE_DEPTH": "4", "WORKERS": "1"}


def blocks(page: str) -> list[str]:
    """The page's blocks of Python."""
    return _PYTHON.findall((DOCS / page).read_text())


@pytest.fixture
def started(new_names: NewNames, monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """The names of the default instance, which nobody serves: a page's code starts it."""
    names = new_names()
    for name, value in {"NAME": names.name, **_SMALL}.items():
        monkeypatch.setenv(f"KVSERVE_{name}", value)
    yield names
    stop(names)


def stop(names: Names) -> None:
    """Ends the server that the code of a page has started."""
    with kvserve.connect(names.name) as cache:
        pid = cache.stats()["pid"]
    os.kill(pid, signal.SIGTERM)
    while processes(names):
        threading.Event().wait(0.01)
    clean_up(names)


@pytest.mark.usefixtures("own_clients")
def test_django(started: Names) -> None:
    """Its settings, in a process of their own."""
    pytest.importorskip("django")
    page, sessions = blocks("django.md")
    code = f"""
{page}
{sessions}
from django.conf import settings
settings.configure(CACHES=CACHES, SESSION_ENGINE=SESSION_ENGINE)
from django.core.cache import cache
assert cache.get("k") is None
cache.set("k", {{1, 2}})
assert cache.get("k") == {{1, 2}}
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with kvserve.connect(started.name) as cache:
        cache.ping()


@pytest.mark.usefixtures("own_clients")
def test_flask(started: Names) -> None:
    """Its settings, and the cache without Flask, one after the other."""
    pytest.importorskip("flask_session")
    from flask import Flask
    from flask_caching import Cache

    settings, sessions, alone = blocks("flask.md")
    found: dict[str, Any] = {"app": Flask("page"), "Cache": Cache}
    exec(settings, found)
    with found["app"].app_context():
        assert found["cache"].set("k", {1, 2})
        assert found["cache"].get("k") == {1, 2}
    exec(sessions, found)
    exec(alone, found)
    assert found["pages"].get("front") == {"tea": 3}
    assert found["pages"].get("visits") == 1
    kvserve.connect(started.name).close()


@pytest.mark.usefixtures("own_clients")
def test_dogpile(started: Names) -> None:
    pytest.importorskip("dogpile.cache")
    from dogpile.cache import register_backend

    register_backend("kvserve", "kvserve.integrations.dogpile", "KvserveBackend")
    found: dict[str, Any] = {"__name__": "page"}
    for block in blocks("dogpile.md"):
        exec(block, found)
    assert found["load_user"](7) == {"id": 7}
    assert found["plain"].get("front") == {"tea": 3}
    kvserve.connect(started.name).close()


def few_lines(about: str) -> str:
    """The code of a section of docs/other-frameworks.md."""
    (block,) = (each for each in blocks("other-frameworks.md") if f"from {about} import" in each)
    return block


@pytest.fixture
def site() -> Iterator[str]:
    """A URL whose page is another one each time."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(secrets.token_hex(4).encode())

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}/"
        served.shutdown()
        thread.join()


def test_requests_cache(started: Names, site: str) -> None:
    pytest.importorskip("requests_cache")
    found: dict[str, Any] = {}
    exec(few_lines("requests_cache"), found)
    session = found["session"]
    with found["client"], session:
        first, again = (session.get(site) for _ in range(2))
        assert (first.text, again.from_cache) == (again.text, True)
        other = found["CachedSession"](backend=found["KvserveCache"](found["client"]))
        assert other.get(site).text == first.text
        assert len(session.cache.responses) == 1
        session.cache.delete(urls=[site])
        assert session.get(site).text != first.text
        session.cache.clear()
        assert len(session.cache.responses) == 0
        other.close()
    assert started.name


@pytest.mark.usefixtures("own_clients")
def test_cashews(started: Names) -> None:
    pytest.importorskip("cashews")
    from cashews import RateLimitError

    found: dict[str, Any] = {}
    exec(few_lines("cashews"), found)
    cache = found["cache"]
    computed: list[int] = []

    @cache(ttl="1m", key="user:{number}", tags=["users"])
    async def load(number: int) -> dict[str, int]:
        computed.append(number)
        return {"id": number}

    @cache.slice_rate_limit(limit=2, period="1m", key="hit:{who}")
    async def hit(who: str) -> str:
        return who

    async def use() -> None:
        assert [await load(1), await load(1), await load(2)] == [{"id": 1}, {"id": 1}, {"id": 2}]
        await cache.delete_tags("users")
        assert await load(1) == {"id": 1}
        assert computed == [1, 2, 1]
        await cache.set_many({"a:1": 1, "a:2": {2}, "b": 3}, expire=60)
        assert await cache.get_many("a:1", "a:2", "c") == (1, {2}, None)
        assert sorted([key async for key in cache.scan("a:*")]) == ["a:1", "a:2"]
        await cache.delete_match("a:*")
        assert [await cache.exists(key) for key in ("a:1", "b")] == [False, True]
        assert await cache.incr("n", 5) == 5
        assert await cache.incr_bits("bits", 1, 3, size=2, by=9) == (3, 3)
        assert await cache.get_bits("bits", 0, 1, 3, size=2) == (0, 3, 3)
        async with cache.lock("lock", expire=10):
            assert await cache.is_locked("lock")
        assert not await cache.is_locked("lock")
        await hit("Ada")
        await hit("Ada")
        with pytest.raises(RateLimitError):
            await hit("Ada")
        await cache.clear()
        assert await cache.get("b") is None

    asyncio.run(use())
    kvserve.connect(started.name).close()


@pytest.mark.parametrize("example", ["flask", "django"])
def test_examples(example: str, tmp_path: Path) -> None:
    """Several gunicorn processes answer, without and with kvserve, and nothing is left."""
    for module in ("gunicorn", "django", "flask_session", "flask_caching"):
        pytest.importorskip(module)
    script = DOCS / "examples" / example / "measure.py"
    done = subprocess.run(
        [sys.executable, str(script), "--seconds", "0.5", "--workers", "2"],
        env=os.environ | {f"KVSERVE_{name}": value for name, value in _SMALL.items()},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, *rows = (line.split() for line in done.stdout.splitlines())
    assert [row[0] for row in rows] == ["plain", "cached"]
    assert all(float(figure) > 0 for row in rows for figure in row[1:])
