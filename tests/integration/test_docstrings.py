"""Every example in a docstring of the package runs and gives what it shows."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from support.servers import Server, StartServer

import kvserve

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(kvserve.__path__, "kvserve.")
    if not module.name.endswith("__main__")
)


@pytest.fixture(scope="module")
def server(make_module_server: StartServer) -> Iterator[Server]:
    """The server whose name need not be said."""
    served = make_module_server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVSERVE_NAME", served.name)
        yield served


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, server: Server) -> None:
    """An example may use `kvserve`, `asyncio`, and a client of its own, `cache`."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for example in doctest.DocTestFinder().find(importlib.import_module(name)):
        with server.connect() as cache:
            example.globs |= {"kvserve": kvserve, "asyncio": asyncio, "cache": cache}
            runner.run(example)
    assert runner.failures == 0
