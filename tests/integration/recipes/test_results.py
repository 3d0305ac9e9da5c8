"""What a memoized function, or get_or_set, returns: on a miss as on a hit, or a stale value."""

from __future__ import annotations

import asyncio
import datetime
import http
import logging
from collections.abc import Callable
from typing import Any

import pytest
from support.crews import TIMEOUT
from support.servers import Server

import kvserve
from kvserve.errors import InvalidArgument, InvalidValue

EAST = datetime.timezone(datetime.timedelta(hours=5))
SHARED = [1]
RESULTS = [
    (1, [2]), bytearray(b"ab"), memoryview(b"ab"), [bytearray(b"ab"), (memoryview(b"c"),)],
    datetime.datetime(2026, 1, 1, tzinfo=EAST), {"at": datetime.datetime(2026, 1, 1, tzinfo=EAST)},
    [SHARED, SHARED], 2**63, {1: {(2, 3): None}}, "text", None, -0.0,
]  # fmt: skip


def shape(value: Any) -> Any:
    """A value with the types at every depth, and the zones of its datetimes."""
    if isinstance(value, dict):
        return dict, [shape(each) for each in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [shape(each) for each in value]
    return type(value), repr(value)


@pytest.mark.parametrize("value", RESULTS, ids=lambda value: type(value).__name__)
def test_miss_and_hit_return_the_same(served: Server, cache: kvserve.Client, value: Any) -> None:
    @cache.memoize(ttl=60, key=lambda: "blocking")
    def compute() -> Any:
        return value

    miss, hit, third = compute(), compute(), cache.get_or_set("other", lambda: value)
    assert shape(miss) == shape(hit) == shape(third) == shape(cache.get("other"))
    assert miss == hit

    async def main() -> Any:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:

            @client.memoize(ttl=60, key=lambda: "asyncio")
            async def compute() -> Any:
                return value

            return await compute(), await compute()

    assert [shape(each) for each in asyncio.run(main())] == [shape(hit)] * 2


def test_result_of_a_miss_is_the_callers_own(cache: kvserve.Client) -> None:
    kept: list[int] = []
    cache.get_or_set("key", lambda: kept).append(1)
    assert (kept, cache["key"]) == ([], [])


@pytest.mark.parametrize("value", [http.HTTPStatus.OK, [http.HTTPStatus.OK], {1, 2}])
def test_result_that_would_come_back_as_another_is_refused_at_the_miss(
    cache: kvserve.Client, value: Any
) -> None:
    for _ in range(2):
        with pytest.raises(InvalidValue):
            cache.get_or_set("key", lambda: value)
        assert "kvserve:claim:key" not in cache


def test_memoize_without_parentheses(served: Server, cache: kvserve.Client) -> None:
    calls = []

    @cache.memoize
    def double(number: int) -> int:
        """Doubles."""
        calls.append(number)
        return 2 * number

    assert (double(4), double(number=4), calls) == (8, 8, [4])
    assert (double.__doc__, double.invalidate(4)) == ("Doubles.", True)

    async def main() -> None:
        async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:

            @client.memoize
            async def double(number: int) -> int:
                calls.append(number)
                return 2 * number

            assert [await double(5), await double(5)] == [10, 10]
            eu = client.namespace("eu")
            assert await eu.memoize(double.__wrapped__)(5) == 10

    asyncio.run(main())
    assert calls == [4, 5, 5]
    for wrong in (staticmethod(len), classmethod(len), property(len)):
        with pytest.raises(InvalidArgument, match="belongs below"):
            cache.memoize(wrong)  # type: ignore[call-overload]


def test_methods_of_two_objects_share_nothing(cache: kvserve.Client) -> None:
    class Shop:
        name = "base"

        def __init__(self, number: int) -> None:
            self.number = number
            self.load = cache.memoize(60, key=lambda: f"shop:{number}")(self.read)

        def read(self) -> int:
            return self.number

        @classmethod
        def which(cls) -> str:
            return cls.name

    class Sub(Shop):
        name = "sub"

    assert [Shop(1).load(), Shop(2).load(), Shop(1).load()] == [1, 2, 1]
    with pytest.raises(InvalidArgument, match=r"is bound to a .*Shop.*give key="):
        cache.memoize(60)(Shop(1).read)
    kept = [cache.memoize(60)(kind.which) for kind in (Shop, Sub)]
    assert [each() for each in kept * 2] == ["base", "sub", "base", "sub"]


def test_functions_that_were_made_with_other_data_share_nothing(cache: kvserve.Client) -> None:
    def scaled(by: Any) -> Callable[[int], Any]:
        @cache.memoize(ttl=60)
        def scale(number: int) -> Any:
            return number * by

        return scale

    assert [scaled(by)(2) for by in (2, 3, 2.0, "x")] == [4, 6, 4.0, "xx"]


def test_asyncio_client_is_made_and_decorates_before_a_loop_and_while_one_runs(
    served: Server,
) -> None:
    calls = []

    def decorate() -> Any:
        client = kvserve.async_client(served.name, timeout=TIMEOUT)

        @client.memoize(ttl=60)
        async def load(number: int) -> int:
            calls.append(number)
            return number

        return client, load

    async def use(client: Any, load: Any) -> None:
        async with client:
            assert [await load(1), await load(1), await load.invalidate(1)] == [1, 1, True]

    async def main() -> None:
        await use(*decorate())  # as a module that a server imports while its loop runs

    before = decorate()
    asyncio.run(use(*before))
    asyncio.run(main())
    assert calls == [1, 1]


class Down(Exception):
    """What a factory meets."""


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_stale_value_stands_in_for_one_that_could_not_be_computed(
    served: Server, cache: kvserve.Client, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    how: dict[str, Any] = {"ttl": 1, "stale": 3600, "claim_ttl": 3600, "stale_on_error": True}

    def fail() -> Any:
        raise Down("the database")

    def ask(factory: Callable[[], Any], **other: Any) -> Any:
        if kind == "blocking":
            return cache.get_or_set("key", factory, **how | other)

        async def main() -> Any:
            async with await kvserve.connect_async(served.name, timeout=TIMEOUT) as client:
                return await client.get_or_set("key", factory, **how | other)

        return asyncio.run(main())

    def leave() -> Any:
        raise KeyboardInterrupt

    def forget() -> Any:
        cache.delete("key")
        fail()

    with pytest.raises(Down):
        ask(fail)  # there is none
    assert ask(lambda: "old") == "old"
    cache.touch("key", 3000)  # as if the ttl were over
    with caplog.at_level(logging.WARNING, "kvserve"):
        assert [ask(fail), ask(fail)] == ["old", "old"]  # nobody waits for the lease
    assert "'key' keeps its stale value" in caplog.text
    assert "the database" in caplog.text
    with pytest.raises(Down):
        ask(fail, stale_on_error=False)
    with pytest.raises(KeyboardInterrupt):
        ask(leave)
    assert ask(lambda: "new") == "new"
    assert ask(fail) == "new"  # it is fresh
    cache.touch("key", 3000)
    with pytest.raises(Down):
        ask(forget)  # it was deleted meanwhile
    assert "kvserve:claim:key" not in cache


def test_stale_on_error_needs_stale_and_goes_with_memoize(cache: kvserve.Client) -> None:
    with pytest.raises(InvalidArgument, match="give stale"):
        cache.get_or_set("key", lambda: 1, ttl=60, stale_on_error=True)
    broken = []

    @cache.memoize(ttl=1, stale=3600, stale_on_error=True)
    def load() -> str:
        if broken:
            raise Down
        return "old"

    assert load() == "old"
    cache.touch(load.cache_key(), 3000)
    broken.append(True)
    assert load() == "old"
    assert load.invalidate()
    with pytest.raises(Down):
        load()
