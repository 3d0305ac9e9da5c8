"""Clients against the model: the same random walk as the table's, through the whole server."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from property.cache_machine import KEYS, LONG, SMALL_VALUES, TTLS, CacheMachine
from support import ways
from support.model import Key
from support.servers import Server, StartServer

from kvserve import UNCHANGED

PATTERNS: st.SearchStrategy[Key] = st.sampled_from(["a", b"a*", "?", "[a-b]*", "\u00e9", "kk"])
TAGS = st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    """The module's server."""
    return make_module_server("--max-value", "32KiB", "--writers", "2")


@pytest.fixture(params=ways.SERVED)
def cache(request: pytest.FixtureRequest, served: Server) -> Iterator[Any]:
    """A client by each way."""
    cache = ways.connect(request.param, served.name)
    yield cache
    cache.close()


class ClientMachine(CacheMachine):
    """The steps that only clients and their namespaces can take, besides."""

    @rule(key=KEYS, value=SMALL_VALUES, ttl=TTLS, leave=st.booleans())
    def update(self, key: Key, value: Any, ttl: float | None, leave: bool) -> None:
        """Changes a value by a function of it, or leaves it."""

        def change(had: Any) -> Any:
            return UNCHANGED if leave else [value, had] if type(had) is int else value

        answers = [each.update(key, change, 7, ttl) for each in (self.cache, self.model)]
        assert answers[0] == answers[1]
        self.look(key)
        self.ttl(key)

    @rule(
        key=KEYS,
        value=SMALL_VALUES,
        how=st.sampled_from(["set", "add", "replace", "keep_ttl", "set_many", "update"]),
        ttl=TTLS,
        tags=TAGS,
    )
    def store_tagged(self, key: Key, value: Any, how: str, ttl: Any, tags: list[str]) -> None:
        """Stores a value with tags."""
        cache, model = self.cache, self.model
        if how == "set_many":
            cache.set_many({key: value}, ttl, tags=tags)
            model.set_many({key: value}, ttl)
            stored = True
        elif how == "update":
            cache.update(key, lambda _: value, ttl=ttl, tags=tags)
            model.update(key, lambda _: value, ttl=ttl)
            stored = True
        elif how == "keep_ttl":
            stored = cache.replace(key, value, keep_ttl=True, tags=tags)
            assert stored == model.replace(key, value, keep_ttl=True)
        else:
            stored = bool(getattr(cache, how)(key, value, ttl, tags=tags))
            assert stored == bool(getattr(model, how)(key, value, ttl))
        if stored:
            model.tag(key, tags)
        self.look(key)
        self.ttl(key)

    @rule(tag=st.sampled_from(["x", "y", "z"]))
    def invalidate_tag(self, tag: str) -> None:
        """Makes all that has a tag a miss."""
        self.cache.invalidate_tag(tag)
        self.model.invalidate_tag(tag)
        for key in ("a", "ab", "\u00e9", b"\xff"):
            self.look(key)

    @rule(key=KEYS)
    def get_record(self, key: Key) -> None:
        """Looks at all that a key holds."""
        found, expected = self.cache.get_record(key), self.model.get_record(key)
        assert (found is None) == (expected is None)
        if found is not None:
            assert found.value == expected.value
            assert found.version == self.cache.gets(key)[1]
            assert found.ttl == expected.ttl or 0 < found.ttl <= LONG == expected.ttl

    @rule(key=KEYS, when=st.sampled_from([0, -1, math.inf]))
    def expire_at(self, key: Key, when: float) -> None:
        """Removes, or lets live for ever."""
        assert self.cache.expire_at(key, when) == self.model.expire_at(key, when)
        self.look(key)

    @rule(term=PATTERNS, is_prefix=st.booleans())
    def delete_some(self, term: Key, is_prefix: bool) -> None:
        """Removes by a prefix or a pattern."""
        how = "delete_prefix" if is_prefix else "delete_matching"
        assert getattr(self.cache, how)(term) == getattr(self.model, how)(term)


class NamespaceMachine(ClientMachine):
    """In a namespace that was cleared a key begins anew, with versions of its own."""

    @rule()
    def flush(self) -> None:
        """Empties both."""
        super().flush()
        self.seen.clear()


@pytest.mark.parametrize("way", ways.NAMESPACES)
def test_namespace_is_the_model(way: str, served: Server) -> None:
    cache = ways.connect(way, served.name)

    def machine() -> CacheMachine:
        cache.flush()
        return NamespaceMachine(cache, value_bytes_max=32 * 1024)

    few = settings(max_examples=25)
    try:
        run_state_machine_as_test(machine, settings=few)  # type: ignore[arg-type]  # a factory
        assert cache.verify() == []
    finally:
        cache.close()


def test_client_is_the_model(cache: Any) -> None:
    def machine() -> CacheMachine:
        cache.flush()
        return ClientMachine(cache, value_bytes_max=32 * 1024)

    few = settings(max_examples=25)
    run_state_machine_as_test(machine, settings=few)  # type: ignore[arg-type]  # a factory
    assert cache.verify() == []
