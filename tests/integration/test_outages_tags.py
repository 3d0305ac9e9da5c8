"""`on_error="miss"`: what is lost of tags, and of changes in namespaces, until the server answers.

Each test runs over the blocking and the asyncio client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from conftest import Eventually
from support import ways
from support.servers import Server, StartServer

import kvserve

Connect = Callable[..., Any]


@pytest.fixture(params=["forgiving", "async-forgiving"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes a client of a server to which errors are misses, closed after the test."""
    with ExitStack() as stack:

        def make(name: str, **options: Any) -> Any:
            cache = ways.connect(request.param, name, **options)
            stack.callback(cache.close)
            return cache

        yield make


def lost(cache: Any) -> kvserve.Lost:
    """The counts of a client, of either kind."""
    found: kvserve.Lost = getattr(cache, "_client", cache).lost
    return found


def answers(cache: Any) -> Callable[[], bool]:
    """Whether the client's breaker is closed, and nothing is left to tell."""
    return lambda: lost(cache).error is None


def test_values_with_tags_are_missing_after_a_lost_invalidation(
    server: Server, make_server: StartServer, connect: Connect, eventually: Eventually
) -> None:
    """All of them here, as a client does not know which have the tag; then those with it, for all.
    Values without tags stay."""
    cache = connect(server.name)
    spaces = [cache, cache.namespace("n")]
    for space in spaces:
        space.set("old", "text", tags=["lost"])
        space.set("both", 7, tags=["kept", "lost"])
        space.set("other", [1], tags=["kept"])
        space.set("plain", 1)
    server.stop()
    assert cache.get("other") == [1]
    for space in spaces:
        space.invalidate_tag("lost")
    assert lost(cache)[1:4] == (2, 2, False)
    for space in spaces:
        for key in ("old", "both", "other"):
            assert space.get(key, "-") == "-"
            assert space.gets(key) == (None, None)
            assert space.ttl(key) is None
            assert not space.contains(key)
            assert space.get_record(key) is None
        assert space.get_many(["old", "both", "other", "plain"]) == {"plain": 1}
        assert space.set("tagged", 1, tags=["new"]) == 0
        assert space.add("added", 1, tags=["new"]) is False
        assert space.replace("replaced", 1, tags=["new"]) is False
        assert space.set_many({"many": 1}, tags=["new"]) is None
        assert space.get_or_set("computed", lambda: 42, tags=["new"]) == 42
    make_server(names=server.names)
    eventually(answers(cache))
    with server.connect() as other:
        for reader in (*spaces, other, other.namespace("n")):
            assert reader.get_many(["old", "both", "other", "plain"]) == {"other": [1], "plain": 1}
    assert cache.set("tagged", 1, tags=["lost"]) > 0
    assert cache.get("tagged") == 1


def test_a_server_that_goes_while_tags_are_read(server: Server, connect: Connect) -> None:
    """The value is computed, and not stored."""
    cache = connect(server.name)
    assert cache.set("key", 1) > 0  # the breaker is closed, and a session there

    def tags(_: int) -> list[str]:
        server.kill_everything()
        return ["a"]

    if isinstance(cache, kvserve.Client):

        @cache.memoize(ttl=60, tags=tags)
        def double(number: int) -> int:
            return 2 * number

        assert double(4) == 8
    else:

        @cache._client.memoize(ttl=60, tags=tags)
        async def double_later(number: int) -> int:
            return 2 * number

        assert cache.run(double_later(4)) == 8
    assert lost(cache).reads > 0


def test_changes_in_a_namespace_are_lost_as_the_clients(server: Server, connect: Connect) -> None:
    """Also by rules of its own."""
    cache = connect(server.name)
    spaces = [cache.namespace("n")]
    if isinstance(cache, kvserve.Client):
        spaces.append(cache.namespace("m", too_large="remove"))
    for space in spaces:
        space.set("key", "old")
    server.stop()
    for space in spaces:
        assert space.set_many({"key": 2, "more": 3}) is None
        assert space.set("key", 2) == 0
        assert space.add("new", 2) is False
        assert space.replace("key", 2) is False
        assert space.touch("key", 2) is False
        assert space.get_many(["key", "more", "new"]) == {}
        for change in (lambda: space.incr("n"), lambda: space.cas("key", 1, 1)):  # noqa: B023
            with pytest.raises(kvserve.ServerUnavailable):
                change()
