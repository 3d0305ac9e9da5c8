"""What the tests of the adapters share: a server of the module, and clients that end before it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from support.servers import Server, StartServer

from kvserve.integrations.shared import close_clients


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Iterator[Server]:
    """A server that the module's tests share, each with a namespace of its own.

    It has a default ttl, which no adapter may take for its own default.
    """
    yield make_module_server("--default-ttl", "7200")
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
