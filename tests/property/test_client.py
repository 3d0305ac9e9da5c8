"""Clients against the model: the same random walk as the table's, through the whole server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import rule, run_state_machine_as_test
from property.cache_machine import CacheMachine
from support import ways
from support.servers import Server, StartServer


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


class NamespaceMachine(CacheMachine):
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
        return CacheMachine(cache, value_bytes_max=32 * 1024)

    few = settings(max_examples=25)
    run_state_machine_as_test(machine, settings=few)  # type: ignore[arg-type]  # a factory
    assert cache.verify() == []
