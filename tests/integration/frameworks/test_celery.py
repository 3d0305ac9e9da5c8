"""Celery's result backend over a real server, with prefork workers and a Valkey as broker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.servers import Server, StartServer
from support.valkeys import Valkey

pytest.importorskip("celery")
from celery import Celery, chord, group
from celery.exceptions import ChordError
from celery.exceptions import TimeoutError as CeleryTimeout

import kvserve
from kvserve.integrations.celery import KvserveBackend
from kvserve.integrations.shared import close_clients

URL = "kvserve.integrations.celery.KvserveBackend://"
WAIT = 30


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """The URL of a Valkey server."""
    with tempfile.TemporaryDirectory(prefix="broker-") as directory:
        valkey = Valkey(Path(directory))
        yield f"redis+socket://{valkey.socket}"
        valkey.kill()


@pytest.fixture
def tasks(tmp_path: Path, broker: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of tasks, imported anew, with this test's directory; its clients end with it."""
    monkeypatch.setenv("TEST_CELERY_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("TEST_CELERY_BROKER", broker)
    monkeypatch.delitem(sys.modules, "support.celery_tasks", raising=False)
    import support.celery_tasks as module

    yield module
    module.app.close()
    close_clients()


@contextmanager
def working(processes: int = 3) -> Iterator[int]:
    """A worker of Celery with so many processes of its own; yields its pid."""
    place = Path(os.environ["TEST_CELERY_DIRECTORY"])
    command = [sys.executable, "-m", "celery", "-A", "support.celery_tasks", "worker"]
    command += ["--pool", "prefork", "--concurrency", str(processes), "--loglevel", "WARNING"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with (place / "log").open("ab") as log:
        worker = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=place, env=os.environ | {"C_FORCE_ROOT": "1"}
        )
    try:
        yield worker.pid
    finally:
        worker.terminate()
        worker.wait()


@pytest.fixture
def named(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that this process and its children use without naming it."""
    monkeypatch.setenv("KVSERVE_NAME", server.names.name)
    return server


@pytest.mark.usefixtures("named")
def test_results_groups_errors_chords_and_states(
    tasks: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    with working():
        assert tasks.add.delay(2, 3).get(timeout=WAIT) == 5
        many = group(tasks.add.s(number, 1) for number in range(20)).apply_async()
        assert many.get(timeout=WAIT) == list(range(1, 21))
        with pytest.raises(ValueError, match="tea"):
            tasks.fail.delay("tea").get(timeout=WAIT)
        together = chord(tasks.add.s(number, 0) for number in range(20))(tasks.add_up.s())
        assert together.get(timeout=WAIT) == sum(range(20))
        broken = chord([tasks.add.s(1, 1), tasks.fail.s("tea")])(tasks.add_up.s())
        with pytest.raises(ChordError, match="tea"):
            broken.get(timeout=WAIT)
        processes = group(tasks.my_process.s() for _ in range(30)).apply_async().get(timeout=WAIT)
        assert len(set(processes)) > 1

        result = tasks.halfway.delay()
        eventually(lambda: result.state == "HALFWAY")
        assert result.info == {"done": 50}
        with pytest.raises(CeleryTimeout):
            result.get(timeout=0)
        (tmp_path / "go on").touch()
        assert result.get(timeout=WAIT) == "whole"


def test_results_outlive_a_restart_of_the_server(
    named: Server, tasks: Any, make_server: StartServer
) -> None:
    with working():
        before = tasks.add.delay(2, 3)
        assert before.get(timeout=WAIT) == 5
        named.stop()
        during = chord([tasks.add.s(1, 1), tasks.add.s(2, 2)])
        again = make_server(names=named.names)
        assert tasks.app.AsyncResult(before.id).get(timeout=WAIT) == 5
        assert during(tasks.add_up.s()).get(timeout=WAIT) == 6
        again.kill_everything()
        make_server(names=named.names)
        assert tasks.add.delay(4, 5).get(timeout=WAIT) == 9


def test_a_worker_boots_without_a_server_and_waits_for_it(
    tasks: Any, make_server: StartServer, new_names: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = new_names()
    monkeypatch.setenv("KVSERVE_NAME", names.name)
    with working():
        result = tasks.add.delay(2, 3)  # it is done, and its result tried to be stored
        time.sleep(1)
        with make_server(names=names).connect():
            assert result.get(timeout=WAIT) == 5


def test_lifetimes_of_results(named: Server) -> None:
    def left(backend: Any) -> float | None:
        backend.store_result("an id", 42, "SUCCESS")
        key = backend.get_key_for_task("an id")
        seconds: float | None = backend._keys.ttl(key)
        backend.delete(key)
        return seconds

    with named.connect():
        assert 0 < (left(KvserveBackend(Celery(), expires=60)) or 0) <= 60
        assert left(KvserveBackend(Celery(set_as_current=False), expires=0)) == float("inf")
        day = Celery(set_as_current=False)
        assert 86_000 < (left(KvserveBackend(day)) or 0) <= 86_400


def test_a_backend_by_url_and_its_options(named: Server) -> None:
    app = Celery(backend=f"{URL}{named.names.name}?timeout=0.5&namespace=results")
    app.backend.store_result("an id", {"a": [1]}, "SUCCESS")
    assert app.AsyncResult("an id").get(timeout=WAIT) == {"a": [1]}
    with named.connect() as cache:
        assert len(list(cache.namespace("results").scan())) == 1
        app.AsyncResult("an id").forget()
        assert list(cache.namespace("results").scan()) == []
    wrong = Celery(backend=f"{URL}?timout=1")
    with pytest.raises(kvserve.InvalidArgument, match="timout"):
        wrong.backend  # noqa: B018 - Celery makes it here
    close_clients()
