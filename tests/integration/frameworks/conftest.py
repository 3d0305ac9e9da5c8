"""What the tests of the adapters share: a server of the module, and clients that end before it."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from support.servers import Server, StartServer

from kvserve.integrations.shared import close_clients

if TYPE_CHECKING:
    from support.response_shop import Shop


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Iterator[Server]:
    """A server that the module's tests share, each with a namespace of its own."""
    yield make_module_server()
    close_clients()


@pytest.fixture
def own_clients() -> Iterator[None]:
    """For a test with servers of its own: no adapter's client outlives them."""
    yield
    close_clients()


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def make_shop(served: Server, namespace: str) -> Callable[..., Shop]:
    """Makes applications behind a cache of responses, with these of its arguments."""
    from support.response_shop import Shop

    return functools.partial(Shop, served.name, namespace)


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    """An application behind a cache of responses."""
    return make_shop()
