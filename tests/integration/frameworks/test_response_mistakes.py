"""Mistakes in the use of the cache of responses are told when they are made, in words that help."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.asgi import ask
from support.servers import Server

pytest.importorskip("starlette")
pytest.importorskip("fastapi")
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from support.response_shop import Shop

import kvserve
from kvserve.integrations import fastapi, starlette


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"strat": True}, "unknown options strat; there are .*start"),
        ({"timeout": -1}, "timeout = -1: use seconds"),
        ({"start": {"memmory": "1GiB"}}, "memmory"),
        ({"name": "redis://localhost:6379/1"}, "instance name"),
    ],
)
def test_a_wrong_option_is_told_at_import(options: dict[str, Any], why: str) -> None:
    with pytest.raises(kvserve.MisuseError, match=why):
        starlette.ResponseCache(**options)


@pytest.mark.parametrize("cached", [starlette.cached, fastapi.cached])
def test_a_wrong_mark_is_told_at_import(cached: Any) -> None:
    def show() -> None:
        """A route's function."""

    with pytest.raises(kvserve.InvalidArgument, match=r"with parentheses"):
        cached(show)
    for ttl in ("60", -1, float("nan"), True):
        with pytest.raises(kvserve.InvalidArgument, match="use seconds"):
            cached(ttl)
    for tags in ("item", 5):
        with pytest.raises(kvserve.InvalidArgument, match="use a list of tags"):
            cached(60, tags=tags)


@pytest.mark.parametrize("tag", ["item:{itm}", "{", "{item.name}"])
def test_a_tag_of_no_parameter_is_told_with_those_that_there_are(
    served: Server, namespace: str, tag: str
) -> None:
    shop = Shop(served.name, namespace)

    @shop.route("/items/{item}")
    @starlette.cached(60, tags=[tag])
    async def show(_: Request) -> Response:
        return PlainTextResponse("tea")

    with pytest.raises(kvserve.InvalidArgument, match=r"cannot be filled in; .* has item$"):
        shop("/items/7")


@pytest.mark.parametrize("is_async", [False, True])
def test_a_route_of_fastapi_under_starlettes_decorator_is_told_of_its_own(is_async: bool) -> None:
    app = FastAPI()

    if is_async:

        @app.get("/items/{item}")
        @starlette.cached(60)
        async def show(item: int) -> int:
            return item

    else:

        @app.get("/items/{item}")
        @starlette.cached(60)
        def show_blocking(item: int) -> int:
            return item

    with pytest.raises(kvserve.InvalidArgument, match=r"kvserve\.integrations\.fastapi"):
        asyncio.run(ask(app, "/items/7"))
