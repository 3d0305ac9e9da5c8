"""Pytest's fixtures for programs that use kvserve; pytest loads them where kvserve is installed.

It is imported in every run of pytest there, so whatever costs time is imported in the fixtures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from kvserve.errors import KvserveError

if TYPE_CHECKING:
    from kvserve.client.aio.client import AsyncClient
    from kvserve.client.blocking.client import Client
    from kvserve.testing.instance import Server

_EARLY: pytest.StashKey[Server] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declares the settings in pytest's configuration file."""
    parser.addini(
        "kvserve_settings",
        "settings of the server of the fixtures kvserve_server and kvserve_cache, name=value each",
        type="linelist",
        default=[],
    )
    parser.addini(
        "kvserve_autostart",
        "start that server before any conftest.py is imported, for programs that connect then",
        type="bool",
        default=False,
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Starts the server of `kvserve_autostart`, where tests will run."""
    given = early_config.known_args_namespace
    is_distributing = getattr(given, "numprocesses", None) or getattr(given, "tx", None)
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    if not early_config.getini("kvserve_autostart") or given.help or given.version:
        return
    if is_distributing and not is_worker:
        return
    from kvserve.testing.instance import server

    stack = ExitStack()
    early_config.add_cleanup(stack.close)
    try:
        early_config.stash[_EARLY] = stack.enter_context(server(**_from_ini(early_config)))
    except KvserveError as error:
        raise pytest.UsageError(f"kvserve_autostart: {error}") from None


@pytest.fixture(scope="session")
def kvserve_settings(pytestconfig: pytest.Config) -> dict[str, Any]:
    """The settings of `kvserve_server`, from pytest's configuration file; override it in conftest.

    A dict with the settings of `kvserve serve`, such as `{"memory": "64MiB"}`.
    """
    return _from_ini(pytestconfig)


@pytest.fixture(scope="session")
def kvserve_server(
    kvserve_settings: dict[str, Any], pytestconfig: pytest.Config
) -> Iterator[Server]:
    """A `kvserve.testing.Server` for the whole run; under pytest-xdist, for each worker its own.

    `$KVSERVE_NAME` and `$KVSERVE_RUNTIME_DIR` lead to it, so that `kvserve.connect()` does.
    """
    early = pytestconfig.stash.get(_EARLY, None)
    if early is not None:
        if kvserve_settings != _from_ini(pytestconfig):
            raise pytest.UsageError(
                "kvserve_autostart has started the server before the fixture kvserve_settings; "
                "write the settings into pytest's configuration file, as kvserve_settings"
            )
        yield early
        return
    from kvserve.testing.instance import server

    with server(**kvserve_settings) as started:
        yield started


@pytest.fixture
def kvserve_cache(kvserve_server: Server) -> Iterator[Client]:
    """A `kvserve.Client` of `kvserve_server`, which is empty and runs when the test begins."""
    _make_ready(kvserve_server)
    with kvserve_server.connect() as cache:
        yield cache


@pytest.fixture
def kvserve_async_cache(kvserve_server: Server) -> Iterator[AsyncClient]:
    """The same as a `kvserve.AsyncClient`; no coroutine, so that it works with any plugin."""
    _make_ready(kvserve_server)
    cache = kvserve_server.async_client()
    yield cache
    cache._close()  # not awaited: the test's event loop is closed, perhaps


def _make_ready(server: Server) -> None:
    """Starts it if a test has stopped it, and empties it."""
    if server.pid is None:
        server.start()
    with server.connect() as cache:
        cache.flush()


def _from_ini(config: pytest.Config) -> dict[str, Any]:
    settings = {}
    for line in config.getini("kvserve_settings"):
        name, equals, text = line.partition("=")
        if not equals:
            raise pytest.UsageError(f"kvserve_settings: {line!r} is not name=value")
        settings[name.strip().replace("-", "_")] = text.strip()
    return settings
