"""Responses that are invalidated, made by several at once, or asked for without a server."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.asgi import ask
from support.servers import Server, StartServer

pytest.importorskip("starlette")
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from support.response_shop import Shop

from kvserve.integrations.starlette import cached, path_tag


@pytest.fixture
def make_shop(served: Server, namespace: str) -> Callable[..., Shop]:
    """Makes applications behind a cache of responses, with these of its arguments."""
    return functools.partial(Shop, served.name, namespace)


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    """An application behind a cache of responses, with a page for each item."""
    shop = make_shop()

    @shop.route("/items/{item}")
    @cached(60, tags=["item:{item}", "items"])
    async def item(_: Request) -> Response:
        return PlainTextResponse(str(next(shop.served)))

    @shop.route("/blocking/{item}")
    @cached(60, tags=lambda request: [f"item:{request.path_params['item']}"])
    def blocking(_: Request) -> Response:
        return PlainTextResponse(str(next(shop.served)))

    return shop


def test_by_tag_by_path_and_all(shop: Shop) -> None:
    pages = ("/items/1", "/items/1?a=b", "/items/2", "/blocking/1")
    assert shop.hits(*pages, *pages) == "MMMMHHHH"
    asyncio.run(shop.pages.invalidate_tag("item:1"))
    assert shop.hits(*pages) == "MMHM"
    asyncio.run(shop.pages.invalidate_path("/items/1"))
    assert shop.hits(*pages) == "MMHH"
    asyncio.run(shop.pages.invalidate_tag("items"))
    assert shop.hits(*pages) == "MMMH"
    asyncio.run(shop.pages.invalidate_tag("no such tag"))
    assert shop.hits(*pages) == "HHHH"
    asyncio.run(shop.pages.clear())
    assert shop.hits(*pages) == "MMMM"


def test_from_other_programs(shop: Shop, served: Server, namespace: str) -> None:
    pages = ("/items/1", "/items/2")
    assert shop.hits(*pages, *pages) == "MMHH"
    shop.pages.blocking().invalidate_tag("item:1")
    assert shop.hits(*pages) == "MH"
    with served.connect() as cache:
        cache.namespace(namespace).invalidate_tag(path_tag("/items/2"))
    assert shop.hits(*pages) == "HM"


def test_a_change_of_a_path(shop: Shop) -> None:
    status = iter([200, 303, 404, 500])

    async def change(_: Request) -> Response:
        return Response(status_code=next(status))

    shop.route("/items/{item}", ["PUT", "POST", "OPTIONS"])(change)
    shop.hits("/items/1", "/items/2")
    for method in ("PUT", "POST"):
        shop("/items/1", method=method)
        assert shop.hits("/items/1", "/items/2") == "MH", method
    for method in ("PUT", "POST"):  # which fail
        shop("/items/1", method=method)
        assert shop.hits("/items/1", "/items/2") == "HH", method


@pytest.mark.parametrize("how", ["tag", "path", "clear"])
@pytest.mark.parametrize("known", [False, True])
def test_an_invalidation_while_a_response_is_computed(shop: Shop, how: str, known: bool) -> None:
    """It saw the data from before, so it must not stay."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    state = {"price": "old", "slow": False}

    @shop.route("/price")
    @cached(60, tags=["price"])
    async def price(_: Request) -> Response:
        seen = state["price"]
        if state["slow"]:
            begun.set()
            await go_on.wait()
        return PlainTextResponse(str(seen))

    async def meanwhile() -> list[bytes]:
        app = shop.app
        if known:
            await ask(app, "/price")
            await shop.pages.clear() if how == "clear" else None
            await ask(app, "/price", headers={"cache-control": "no-cache"})
        state["slow"] = True
        fresh = {"cache-control": "no-cache"}
        asked = asyncio.create_task(ask(app, "/price", headers=fresh))
        await begun.wait()
        state["price"], state["slow"] = "new", False
        if how == "clear":
            await shop.pages.clear()
        elif how == "tag":
            await shop.pages.invalidate_tag("price")
        else:
            await shop.pages.invalidate_path("/price")
        go_on.set()
        return [(await asked).body, (await ask(app, "/price")).body]

    assert asyncio.run(meanwhile()) == [b"old", b"new"]


def test_many_ask_for_a_known_page_and_one_computes(shop: Shop) -> None:
    computed: list[str] = []

    @shop.route("/slow")
    @cached(60, tags=["slow"])
    async def slow(request: Request) -> Response:
        computed.append(str(request.url))
        await asyncio.sleep(0.1)
        return PlainTextResponse("slow")

    async def crowd() -> set[tuple[int, bytes]]:
        app = shop.app
        await ask(app, "/slow")
        await shop.pages.invalidate_tag("slow")
        answers = await asyncio.gather(*(ask(app, "/slow") for _ in range(20)))
        return {(each.status, each.body) for each in answers}

    assert asyncio.run(crowd()) == {(200, b"slow")}
    assert len(computed) == 2


def test_those_who_wait_go_on_when_the_computing_request_fails(shop: Shop) -> None:
    state = {"fails": False}

    @shop.route("/slow")
    @cached(60, tags=["slow"])
    async def slow(_: Request) -> Response:
        if state["fails"]:
            state["fails"] = False
            await asyncio.sleep(0.05)
            raise ZeroDivisionError
        return PlainTextResponse("slow")

    async def crowd() -> list[Any]:
        app = shop.app
        await ask(app, "/slow")
        await shop.pages.invalidate_tag("slow")
        state["fails"] = True
        return await asyncio.gather(*(ask(app, "/slow") for _ in range(5)), return_exceptions=True)

    answers = asyncio.run(crowd())
    assert sum(isinstance(each, ZeroDivisionError) for each in answers) == 1
    assert [each.body for each in answers if not isinstance(each, Exception)] == [b"slow"] * 4


def test_in_several_loops_at_once(shop: Shop) -> None:
    found: list[str] = []
    shop("/items/1")
    threads = [
        threading.Thread(target=lambda: found.append(shop.hits("/items/1"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["H"] * 4


@pytest.mark.usefixtures("own_clients")
def test_without_a_server(
    make_server: StartServer, new_names: Any, eventually: Callable[..., None]
) -> None:
    """It costs misses, never an error; and no response that was invalidated comes back."""
    names = new_names()
    shop = Shop(names.name, "pages", timeout=1.0)
    shop.says("/", cache_control="max-age=60")
    assert shop.hits("/", "/") == "MM"
    server = make_server(names=names)
    eventually(lambda: shop.hits("/") == "H")
    server.stop()
    assert shop.hits("/") == "H"  # from the kept table
    assert shop("/", method="PUT")[0].status == 200
    assert shop.hits("/", "/") == "MM"
    make_server(names=names)
    eventually(lambda: shop.hits("/") == "H")
