"""A cached FastAPI application under uvicorn with several processes, and in one."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.asgi import ask
from support.servers import Server, StartServer

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
from fastapi import Depends, FastAPI, HTTPException

from kvserve.integrations.fastapi import CacheMiddleware, ResponseCache, cached


class Site:
    """The application of support/shop_app.py under uvicorn."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self._name = name
        self._place = directory / "http"
        (directory / "price").write_text("1")

    @contextmanager
    def served(self, workers: int, eventually: Callable[..., None]) -> Iterator[None]:
        """By so many processes."""
        command = [sys.executable, "-m", "uvicorn", "support.shop_app:app"]
        command += ["--uds", str(self._place), "--workers", str(workers), "--log-level", "warning"]
        environment = os.environ | {
            "KVSERVE_NAME": self._name, "TEST_SHOP_DIRECTORY": str(self.directory),
        }  # fmt: skip
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self.directory
            )
        try:
            eventually(self._answers)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()

    def _answers(self) -> bool:
        try:
            return self.ask("/process")[0] == 200
        except OSError:
            return False

    def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, Any]:
        """The status, fields and decoded body of an answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("shop")
        with socket.socket(socket.AF_UNIX) as connection.sock:
            connection.sock.connect(str(self._place))
            connection.request(method, path, headers=named | {"Connection": "close"})
            response = connection.getresponse()
            body = response.read()
        return response.status, response.headers, json.loads(body) if body else None

    @property
    def computed(self) -> list[str]:
        """What was computed so far, by any process."""
        file = self.directory / "computed"
        return file.read_text().splitlines() if file.exists() else []


def test_several_processes_share_responses(
    server: Server, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    site = Site(tmp_path, server.name)
    with site.served(3, eventually):
        processes: set[int] = set()
        eventually(lambda: processes.add(site.ask("/process")[2]) or len(processes) == 3)
        answers = [site.ask("/items/7") for _ in range(30)]
        assert {json.dumps(body) for _, _, body in answers} == {json.dumps(answers[0][2])}
        assert site.computed == ["item 7"]
        tag = answers[0][1]["ETag"]
        assert site.ask("/items/7", If_None_Match=tag)[0] == 304
        # What one process changes, all know at once.
        for price in ("2", "3"):
            assert site.ask(f"/items/7?price={price}", "PUT")[0] == 200
            assert {site.ask("/items/7")[2]["price"] for _ in range(20)} == {price}
        assert len(site.computed) == 3
        # A crowd over all processes computes it once, once it is known that it can be cached.
        site.ask("/items/7?price=4", "PUT")
        site.ask("/items/7?pause=0.3")
        site.ask("/items/7?price=5", "PUT")
        before = len(site.computed)
        with ThreadPoolExecutor(12) as crowd:
            found = list(crowd.map(lambda _: site.ask("/items/7?pause=0.3")[2]["price"], range(24)))
        assert set(found) == {"5"}
        assert len(site.computed) == before + 1


@pytest.mark.usefixtures("own_clients")
def test_a_site_before_during_and_after_its_cache(
    make_server: StartServer, new_names: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    names = new_names()
    site = Site(tmp_path, names.name)

    def hit() -> bool:
        status, headers, _ = site.ask("/items/1")
        assert status == 200
        return bool(headers["X-Cache"] == "HIT")

    with site.served(2, eventually):
        assert not any(hit() for _ in range(4))
        server = make_server(names=names)
        eventually(hit)
        server.kill_everything()
        assert [site.ask("/items/2")[0] for _ in range(4)] == [200] * 4
        assert site.ask("/items/1?price=2", "PUT")[0] == 200
        make_server(names=names)
        eventually(hit)


def test_dependencies_errors_and_response_models(served: Server, namespace: str) -> None:
    pages = ResponseCache(name=served.name, namespace=namespace, status_header="X-Cache")
    app = FastAPI(dependencies=[cached(60, tags=["all"])])
    app.add_middleware(CacheMiddleware, cache=pages)
    asked: list[int] = []

    async def check(item: int) -> int:
        asked.append(item)
        if item == 404:
            raise HTTPException(404, "no such item")
        return item

    @app.get("/items/{item}", dependencies=[cached(30, tags=["item:{item}"])])
    def show(item: int = Depends(check)) -> dict[str, int]:
        return {"item": item}

    async def visit() -> list[tuple[int, str]]:
        answers = [await ask(app, f"/items/{item}") for item in (1, 1, 404, 404, "x", "x")]
        await pages.invalidate_tag("all")
        answers.append(await ask(app, "/items/1"))
        await pages.invalidate_tag("item:1")
        answers += [await ask(app, "/items/1"), await ask(app, "/items/1")]
        return [(each.status, each.headers["x-cache"]) for each in answers]

    assert asyncio.run(visit()) == [
        (200, "MISS"), (200, "HIT"), (404, "MISS"), (404, "MISS"), (422, "MISS"), (422, "MISS"),
        (200, "MISS"), (200, "MISS"), (200, "HIT"),
    ]  # fmt: skip
    assert asked == [1, 404, 404, 1, 1]
