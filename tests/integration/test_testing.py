"""kvserve.testing.server: it is found by the environment, and leaves nothing however it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from conftest import Eventually
from support.leftovers import children, leftovers, processes

import kvserve
import kvserve.testing
from kvserve.names import Names


def names_of(server: kvserve.testing.Server) -> Names:
    return Names(server.name, server.runtime_directory / server.name)


def test_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVSERVE_NAME", "mine")
    before = dict(os.environ)
    with kvserve.testing.server() as outer, kvserve.testing.server() as inner:
        with outer.connect() as cache:
            cache.set("whose", "outer")
        with kvserve.connect() as cache:
            assert cache.get("whose") is None
        assert os.environ["KVSERVE_NAME"] == inner.name
    assert dict(os.environ) == before


def test_killed_server_is_replaced_by_start(eventually: Eventually) -> None:
    with kvserve.testing.server() as server, server.connect() as cache:
        cache.set("key", "value")
        pid = server.pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: server.pid is None)
        server.start()
        assert server.pid != pid
        assert cache["key"] == "value"
    assert leftovers(names_of(server)) == []


def test_server_outlives_no_killed_supervisor(eventually: Eventually) -> None:
    with kvserve.testing.server() as server:
        (supervisor,) = (
            pid for pid, line in children().items() if server.name in line and "main(" in line
        )
        os.kill(supervisor, signal.SIGKILL)
        eventually(lambda: leftovers(names_of(server)) == [])
        eventually(lambda: not server.runtime_directory.exists())
        with pytest.raises(kvserve.ServerError, match="has ended"):
            server.start()


def test_failed_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    made = kvserve.testing.Server(store=f"sqlite://{tmp_path}/missing/shop.db")
    with pytest.raises(kvserve.KvserveError, match="missing"):
        made.start()
    made.close()
    assert processes(names_of(made)) == {}
    assert not made.runtime_directory.exists()
