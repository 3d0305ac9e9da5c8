"""What the tests of the recipes share: a server, an empty cache, and where processes take notes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.crews import TIMEOUT, Journal
from support.servers import Server, StartServer

import kvserve


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    """The module's server."""
    return make_module_server()


@pytest.fixture(autouse=True)
def cache(served: Server) -> Iterator[kvserve.Client]:
    """A client of an empty cache."""
    with served.connect(timeout=TIMEOUT) as client:
        client.flush()
        yield client


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Where the processes of a crew note what they did."""
    return Journal(tmp_path / "journal")
