"""The cache of responses in front of a Starlette application, over a real server."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
from support.asgi import ask
from support.servers import Server

pytest.importorskip("starlette")
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from support.response_shop import Shop

from kvserve.integrations.starlette import cached


@pytest.fixture
def make_shop(served: Server, namespace: str) -> Callable[..., Shop]:
    """Makes applications behind a cache of responses, with these of its arguments."""
    return functools.partial(Shop, served.name, namespace)


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    """An application behind a cache of responses."""
    return make_shop()


def test_a_response_with_a_lifetime_is_kept(shop: Shop) -> None:
    shop.says("/", cache_control="max-age=60", x_other="tea")
    first, second = shop("/", "/")
    assert (first.body, first.headers["x-cache"]) == (b"1", "MISS")
    assert (second.body, second.headers["x-cache"]) == (b"1", "HIT")
    assert second.headers["x-other"] == "tea"
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.headers["etag"] == first.headers["etag"]
    assert "age" not in first.headers
    assert int(second.headers["age"]) < 30


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"cache_control": "no-store"},
        {"cache_control": "private, max-age=60"},
        {"cache_control": "no-cache, max-age=60"},
        {"cache_control": "max-age=60", "vary": "*"},
        {"cache_control": "max-age=60", "set_cookie": "a=b"},
    ],
    ids=str,
)
def test_what_is_not_kept(shop: Shop, headers: dict[str, str]) -> None:
    shop.says("/", **headers)
    assert shop.hits("/", "/") == "MM"


def test_statuses(shop: Shop) -> None:
    for status in (200, 301, 404, 410, 500, 503):
        shop.says(f"/{status}", status, cache_control="max-age=60")
    kept = [each for each in (200, 301, 404, 410, 500, 503) if shop.hits(*[f"/{each}"] * 2) == "MH"]
    assert kept == [200, 301, 404, 410]


def test_it_expires(shop: Shop, eventually: Callable[..., None]) -> None:
    shop.says("/", cache_control="max-age=1")
    assert shop.hits("/", "/") == "MH"
    eventually(lambda: shop.hits("/") == "M")


def test_the_default_and_a_routes_own_lifetime(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(default_ttl=60)
    shop.says("/default")
    shop.says("/never", cache_control="no-store")

    @shop.route("/short")
    @cached(0.2)
    async def short(_: Request) -> Response:
        return PlainTextResponse("short")

    @shop.route("/blocking")
    @cached(60)
    def blocking(_: Request) -> Response:
        return PlainTextResponse("blocking")

    assert shop.hits("/default", "/default", "/never", "/never") == "MHMM"
    assert shop.hits("/blocking", "/blocking") == "MH"

    async def later() -> list[str]:
        app, found = shop.app, []
        for pause in (0, 0, 0.3):
            await asyncio.sleep(pause)
            found.append((await ask(app, "/short")).headers["x-cache"])
        return found

    assert asyncio.run(later()) == ["MISS", "HIT", "MISS"]


def test_what_a_request_may_ask_for(shop: Shop) -> None:
    shop.says("/", cache_control="max-age=60")
    assert shop.hits("/", "/") == "MH"

    def asked(**headers: str) -> str:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return shop.hits("/", headers=named)

    assert asked(cache_control="no-cache") == "M"  # and stored anew
    assert shop("/")[0].body == b"2"
    assert asked(pragma="no-cache") == "M"
    assert asked(cache_control="max-age=0") in "MH"  # stored within this very second
    assert asked(cache_control="max-age=60", pragma="no-cache") == "H"
    assert asked(cache_control="min-fresh=100") == "M"
    assert asked(cache_control="no-store") == "B"
    assert asked(range="bytes=0-1") == "B"
    assert asked(if_match='"a"') == "B"
    assert asked(cache_control="only-if-cached") == "H"
    assert shop("/other", headers={"cache-control": "only-if-cached"})[0].status == 504


def test_requests_that_are_not_obeyed(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(obey_requests=False)
    shop.says("/", cache_control="max-age=60")
    for asked in ("no-cache", "no-store", "max-age=0"):
        shop("/")
        assert shop.hits("/", headers={"cache-control": asked}) == "H"


def test_entity_tags(shop: Shop) -> None:
    shop.says("/own", cache_control="max-age=60", etag='"mine"')
    shop.says("/", cache_control="max-age=60", last_modified="Mon, 12 Jan 1970 13:46:40 GMT")
    for path, tag in (("/own", '"mine"'), ("/", shop("/")[0].headers["etag"])):
        assert re.fullmatch(r'(W/)?"\w+"', tag)
        shop(path)
        for given in (tag, f"W/{tag.removeprefix('W/')}", f'"x", {tag}', "*"):
            (answer,) = shop(path, headers={"if-none-match": given})
            assert (answer.status, answer.body) == (304, b""), given
            assert answer.headers["etag"] == tag
            assert answer.headers["cache-control"] == "max-age=60"
            assert answer.headers["x-cache"] == "HIT"
            assert {"content-length", "content-type"}.isdisjoint(answer.headers)
        assert shop(path, headers={"if-none-match": '"x"'})[0].status == 200
    since = {"if-modified-since": "Mon, 12 Jan 1970 13:46:40 GMT"}
    assert shop("/", headers=since)[0].status == 304


def test_a_miss_is_not_modified_either(shop: Shop) -> None:
    @shop.route("/")
    @cached(60)
    async def same(_: Request) -> Response:
        return PlainTextResponse("same")

    (first,) = shop("/")
    fresh = {"if-none-match": first.headers["etag"], "cache-control": "no-cache"}
    (again,) = shop("/", headers=fresh)
    assert (again.status, again.headers["x-cache"]) == (304, "MISS")


def test_head_is_answered_from_gets_response(shop: Shop) -> None:
    shop.says("/", cache_control="max-age=60")
    assert shop.hits("/", method="HEAD") == "M"
    assert shop.hits("/") == "M"
    (head,) = shop("/", method="HEAD")
    assert (head.body, head.headers["content-length"], head.headers["x-cache"]) == (b"", "1", "HIT")


def test_vary(shop: Shop) -> None:
    @shop.route("/")
    @cached(60)
    async def answer(request: Request) -> Response:
        text = f"{request.headers.get('accept-language')} {next(shop.served)}"
        return PlainTextResponse(text, headers={"Vary": "Accept-Language"})

    def of(language: str | None) -> bytes:
        headers = {} if language is None else {"accept-language": language}
        return shop("/", headers=headers)[0].body

    assert [of("de"), of("fr"), of(None)] == [b"de 1", b"fr 2", b"None 3"]
    assert [of("de"), of("fr"), of(None), of("it")] == [b"de 1", b"fr 2", b"None 3", b"it 4"]
    assert shop.hits("/", headers={"accept-language": "de", "accept": "x"}) == "H"


def test_vary_that_changes_between_responses(shop: Shop) -> None:
    """Once a field made a difference, it goes on doing so."""
    varying = iter(["", "Accept", "", "Cookie"])

    @shop.route("/")
    @cached(60, public=True)
    async def answer(_: Request) -> Response:
        vary = next(varying)
        return PlainTextResponse(str(next(shop.served)), headers={"Vary": vary} if vary else {})

    fresh = {"cache-control": "no-cache"}
    assert shop("/")[0].body == b"1"
    assert shop("/", headers=fresh | {"accept": "a"})[0].body == b"2"
    assert shop("/", headers=fresh | {"accept": "b"})[0].body == b"3"
    assert shop("/", headers={"accept": "a"})[0].body == b"2"
    assert shop("/", headers={"accept": "b"})[0].body == b"3"
    assert shop.hits("/", headers={"accept": "c"}) == "M"


@pytest.mark.parametrize("name", ["authorization", "cookie"])
def test_personal_requests(shop: Shop, name: str) -> None:
    """A response to one is another user's only if it says so; nor gets one what others got."""
    shop.says("/plain", cache_control="max-age=60")
    shop.says("/public", cache_control="public, max-age=60")
    shop.says("/shared", cache_control="s-maxage=60")
    shop.says("/varying", cache_control="max-age=60", vary=name)
    ada, bob = {name: "ada"}, {name: "bob"}
    assert shop.hits("/plain", "/plain", headers=ada) == "MM"
    assert shop.hits("/plain", "/plain") == "MH"
    assert shop.hits("/plain", headers=ada) == "M"
    for path in ("/public", "/shared"):
        assert shop.hits(path, headers=ada) == "M"
        assert shop.hits(path, headers=bob) == "H"
        assert shop.hits(path) == "H"
    assert shop.hits("/varying", "/varying", headers=ada) == "MH"
    assert shop.hits("/varying", "/varying", headers=bob) == "MH"
    assert shop.hits("/varying", "/varying") == "MH"
    assert shop("/varying", headers=ada)[0].body != shop("/varying", headers=bob)[0].body


def test_cookies_that_mean_nothing(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(ignore_cookies=True)
    shop.says("/", cache_control="max-age=60")
    assert shop.hits("/", headers={"cookie": "_ga=1"}) == "M"
    assert shop.hits("/", headers={"cookie": "_ga=2"}) == "H"
    assert shop.hits("/", headers={"authorization": "ada"}) == "M"


def test_urls(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(ignore_query=["utm_source"])
    shop.says("/{rest:path}", cache_control="max-age=60")
    assert shop.hits("/a?x=1&y=2", "/a?y=2&x=1", "/a?x=1&y=2&utm_source=z") == "MHH"
    assert shop.hits("/a", "/a?x=1", "/a?x=2", "/b", "/a%3Fx=1", "/a/") == "MMMMMM"
    assert shop.hits("/a", host="other") == "M"
    assert shop.hits("/a", host="SHOP") == "H"
    assert shop.hits("/x", host="shop/a") == "B"
    long = "/" + "a" * 3000
    assert shop.hits(long, long, long + "a") == "MHM"
    assert shop.hits("/%FF%C3%A9%0A", "/%FF%C3%A9%0A") == "MH"


def test_streams_and_large_bodies_are_passed_on(
    make_shop: Callable[..., Shop], tmp_path: Any
) -> None:
    shop = make_shop(default_ttl=60, max_bytes=1000)
    (tmp_path / "small").write_bytes(b"s" * 1000)

    @shop.route("/stream")
    async def stream(_: Request) -> Response:
        async def parts() -> Any:
            for _ in range(3):
                yield b"part"

        return StreamingResponse(parts())

    @shop.route("/large")
    async def large(_: Request) -> Response:
        return PlainTextResponse("x" * 1001)

    @shop.route("/file")
    async def file(_: Request) -> Response:
        return FileResponse(tmp_path / "small")

    @shop.route("/nothing")
    async def nothing(_: Request) -> Response:
        return Response(status_code=204)

    assert shop.hits("/stream", "/stream", "/large", "/large") == "MMMM"
    (streamed,) = shop("/stream")
    assert streamed.body == b"part" * 3
    assert len(streamed.messages) > 4  # in parts, as they came
    assert shop("/large")[0].body == b"x" * 1001
    assert shop.hits("/file", "/file", "/nothing", "/nothing") == "MHMH"
    assert shop("/file")[0].body == b"s" * 1000


def test_a_body_beyond_the_servers_limit_is_answered(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(default_ttl=60)

    @shop.route("/")
    async def huge(_: Request) -> Response:
        return Response(b"x" * 500_000)  # the tests' servers take 256 KiB

    assert [len(each.body) for each in shop("/", "/")] == [500_000, 500_000]
    assert shop.hits("/", "/") == "MM"


def test_with_compression_inside_and_outside(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(default_ttl=60)
    shop.inner.append(Middleware(GZipMiddleware, minimum_size=10))

    @shop.route("/")
    async def text(_: Request) -> Response:
        return PlainTextResponse("tea " * 100)

    packed = {"accept-encoding": "gzip"}
    assert shop.hits("/", "/", headers=packed) == "MH"
    assert shop.hits("/", "/") == "MH"
    assert shop("/", headers=packed)[0].headers["content-encoding"] == "gzip"
    assert shop("/")[0].body == b"tea " * 100


def test_an_exception_of_the_application_comes_out(shop: Shop) -> None:
    @shop.route("/")
    @cached(60)
    async def fail(_: Request) -> Response:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            shop("/")


def test_background_tasks_run_once(shop: Shop) -> None:
    from starlette.background import BackgroundTask

    ran: list[int] = []

    @shop.route("/")
    @cached(60)
    async def answer(_: Request) -> Response:
        return PlainTextResponse("tea", background=BackgroundTask(ran.append, 1))

    assert shop.hits("/", "/") == "MH"
    assert ran == [1]
