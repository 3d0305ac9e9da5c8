"""memoize with the codec `models`: the type that the annotation names, on a hit and on a miss."""

from __future__ import annotations

import asyncio
import dataclasses
import decimal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.codecs import Address, Point, Prices, Reversing, User, some_user
from support.servers import PATIENCE_SECONDS, Server, StartServer

import kvserve
from kvserve import codecs
from kvserve.errors import InvalidArgument, InvalidValue, UnreadableValue

if TYPE_CHECKING:
    from fractions import Fraction

CALLS: list[int] = []


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    """A server of this file."""
    return make_module_server("--writers", "4")


def one(number: int) -> User:
    """A user."""
    CALLS.append(number)
    return some_user()


def several(number: int) -> list[User]:
    """Users."""
    CALLS.append(number)
    return [some_user()] * number


def perhaps(number: int) -> Address | None:
    """An address or none."""
    CALLS.append(number)
    return Address("here", Point(number)) if number % 2 else None


def named(number: int) -> dict[str, Address]:
    """Addresses by name."""
    CALLS.append(number)
    return {f"{number}": Address("here", Point(number))}


def priced(number: int) -> Prices:
    """A plain dict, whose values are not plain."""
    CALLS.append(number)
    return {"tea": decimal.Decimal(number), "at": Point(number)}


FUNCTIONS = [one, several, perhaps, named, priced]
CLIENTS: list[dict[str, Any]] = [{}, {"read": "worker"}, {"write": "direct"}]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("options", CLIENTS, ids=str)
def test_hit_and_miss_are_alike(served: Server, function: Any, options: dict[str, Any]) -> None:
    with served.connect(codec=codecs.models(), **options) as cache:
        cache.flush()
        wanted = {number: function(number) for number in (2, 3)}
        CALLS.clear()
        for owner in (cache, cache.namespace("part")):
            memoized = owner.memoize(ttl=60)(function)
            for number in (2, 3, 2, 3):
                found = memoized(number)
                assert found == wanted[number]
                assert type(found) is type(wanted[number])
        assert CALLS == [2, 3, 2, 3]  # once in each place


@pytest.mark.parametrize("function", FUNCTIONS)
def test_in_asyncio_too(served: Server, function: Any) -> None:
    async def main() -> None:
        async with kvserve.async_client(
            served.name, timeout=PATIENCE_SECONDS, codec=codecs.models()
        ) as cache:
            await cache.flush()

            async def compute(number: int) -> Any:
                return function(number)

            compute.__annotations__ = function.__annotations__
            compute.__qualname__ = f"compute_{function.__name__}"
            memoized = cache.memoize(compute)
            for number in (3, 3):
                assert await memoized(number) == function(number)

    asyncio.run(main())


OTHER = """
import sys
from support.codecs import User
import kvserve
with kvserve.connect(sys.argv[1], codec=kvserve.codecs.models(User)) as cache:
    print(type(cache.get("user")).__qualname__, cache.get("user").name)
with kvserve.connect(sys.argv[1], codec=kvserve.codecs.models()) as cache:
    try:
        cache.get("user")
    except kvserve.UnreadableValue as error:
        print(error)
"""


def test_another_process_reads_by_name(served: Server) -> None:
    with served.connect(codec=codecs.models(User)) as cache:
        cache.set("user", some_user())
    tests = [path for path in sys.path if path.endswith("tests")]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path += {tests}\n{OTHER}", served.name],
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == "User Ada"
    assert "holds a 'support.codecs.User', which this client was not given" in second


@pytest.mark.parametrize("codec", [None, Reversing(), codecs.json()], ids=str)
def test_without_the_codec_storing_it_is_refused(served: Server, codec: Any) -> None:
    with served.connect(codec=codec) as cache:
        cache.flush()
        with pytest.raises(InvalidValue, match="User"):
            cache.memoize(one)(7)
        assert list(cache.scan()) == []


def test_what_is_annotated_for_checkers_alone_is_told_when_stored(served: Server) -> None:
    def checked(number: int) -> Fraction:
        from fractions import Fraction

        return Fraction(1, number)

    with served.connect(codec=codecs.models()) as cache:
        with pytest.raises(InvalidValue, match=r"a fractions.Fraction is not known to it"):
            cache.memoize(checked)(7)

        def unannotated(number: int):  # type: ignore[no-untyped-def]
            return some_user(), number

        with pytest.raises(InvalidValue, match=r"codecs.models\(User"):
            cache.memoize(unannotated)(7)


def test_a_class_that_has_changed_is_computed_anew(served: Server) -> None:
    def version(fields: list[str]) -> Any:
        made = dataclasses.make_dataclass("Moving", fields)
        made.__module__, made.__qualname__ = "shop", "Moving"
        return made

    old, new = version(["a"]), version(["a", "b"])
    with served.connect(codec=codecs.models(old)) as cache:
        cache.set("moving", old(1))
    with served.connect(codec=codecs.models(new)) as cache:
        with pytest.raises(UnreadableValue, match="the type has other fields now: b"):
            cache.get("moving")
        assert cache.get_or_set("moving", lambda: new(1, 2)) == new(1, 2)
    with pytest.raises(InvalidArgument, match=r"two types have the name shop\.Moving"):
        codecs.models(old, new)


def test_a_class_that_was_loaded_again_takes_the_place_of_the_older(served: Server) -> None:
    """In a notebook for instance. The older one never comes back as the newer."""

    def load() -> tuple[Any, Any]:
        made = dataclasses.make_dataclass("Again", ["a"])
        made.__module__ = "notebook"

        def again(number: int) -> Any:
            return made(number)

        again.__annotations__["return"] = made
        again.__qualname__ = "again"
        return made, again

    with served.connect(codec=codecs.models()) as cache:
        (old, first), (new, second) = load(), load()
        assert cache.memoize(first)(1) == old(1)
        assert type(cache.memoize(second)(1)) is new
        with pytest.raises(InvalidValue, match=r"notebook\.Again is not known"):
            cache.set("old", old(1))
