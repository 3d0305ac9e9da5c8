"""A Starlette application whose every response is another one, behind the cache of responses."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from kvserve.integrations.starlette import CacheMiddleware, ResponseCache
from support.asgi import Answer, ask


class Shop:
    """The application, and a way to ask it. Arguments as for `ResponseCache`."""

    def __init__(self, name: str, namespace: str, **options: Any) -> None:
        self.pages = ResponseCache(
            name=name, namespace=namespace, status_header="X-Cache", **options
        )
        self.served = itertools.count(1)
        self.routes: list[Route] = []
        self.inner: list[Middleware] = []

    def route(self, path: str, methods: list[str] | None = None) -> Callable[[Any], Any]:
        """Adds a route."""

        def add(function: Any) -> Any:
            self.routes.append(Route(path, function, methods=methods))
            return function

        return add

    def says(self, path: str, status: int = 200, **headers: str) -> None:
        """Adds a route that answers with a new number each time, and these fields, _ for -."""

        async def answer(_: Request) -> Response:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return PlainTextResponse(str(next(self.served)), status, named)

        self.route(path, ["GET", "POST", "PUT", "DELETE"])(answer)

    @property
    def app(self) -> Starlette:
        """The application."""
        outer = Middleware(CacheMiddleware, cache=self.pages)
        return Starlette(routes=self.routes, middleware=[outer, *self.inner])

    def __call__(self, *paths: str, **request: Any) -> list[Answer]:
        """Asks for these paths, one after the other."""

        async def all_of_them() -> list[Answer]:
            app = self.app
            return [await ask(app, path, **request) for path in paths]

        return asyncio.run(all_of_them())

    def hits(self, *paths: str, **request: Any) -> str:
        """H, M or B of each."""
        return "".join(each.headers["x-cache"][0] for each in self(*paths, **request))
