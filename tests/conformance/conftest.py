"""Runs every behaviour over every way to reach a cache.

A test asks for `cache` and gets each way in turn, freshly flushed. `@pytest.mark.ways(...)` narrows
it to ways where the behaviour exists. The ways of a module share one server.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from support import ways
from support.servers import Server, StartServer

from kvserve.names import Names

Keys = Callable[[str], str]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeats each test that asks for a cache."""
    if "cache" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("ways")
        metafunc.parametrize("way", marker.args if marker else ways.ALL, scope="module")


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    """The module's server, with room for the largest values."""
    return make_module_server("--memory", "64MiB", "--max-value", "1MiB", "--writers", "16")


@pytest.fixture(scope="module")
def opened(way: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The way, open as long as the module uses it."""
    with ExitStack() as stack:
        if way == "model":
            yield ways.open_model()
        elif way == "table":
            names: Names = request.getfixturevalue("module_names")
            yield stack.enter_context(ways.open_table(names))
        else:
            server: Server = request.getfixturevalue("served")
            cache = ways.connect(way, server.name)
            stack.callback(cache.close)
            yield cache


@pytest.fixture
def cache(opened: Any) -> Any:
    """An empty cache."""
    opened.flush()
    return opened


@pytest.fixture
def key() -> str:
    """A key that no other test uses."""
    return f"key-{secrets.token_hex(4)}"
