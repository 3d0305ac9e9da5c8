"""dogpile.cache over kvserve: dogpile's own suites, and its lock between processes."""

from __future__ import annotations

import multiprocessing
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import Eventually, NewNames
from support.servers import Server, StartServer

pytest.importorskip("dogpile.cache")

from dogpile.cache import make_region, register_backend
from dogpile.cache.api import NO_VALUE
from dogpile.testing.fixtures import (
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

from kvserve.integrations.dogpile import KvserveBackend

register_backend("kvserve", "kvserve.integrations.dogpile", "KvserveBackend")


class _OverKvserve:
    """Has dogpile's suites use the module's server, in a namespace of each test's own."""

    backend = "kvserve"
    config_args: dict[str, Any]

    @pytest.fixture(autouse=True)
    def place(self, served: Server, namespace: str) -> None:
        self.config_args = {"arguments": {"name": served.name, "namespace": namespace, **self.more}}

    @classmethod
    def setup_class(cls) -> None:
        """Nothing: the server is there."""

    more: dict[str, Any] = {}  # noqa: RUF012


class TestBackend(_OverKvserve, _GenericBackendTestSuite):
    """With a lock between processes."""


class TestBackendOfThreads(_OverKvserve, _GenericBackendTestSuite):
    """With dogpile's own lock between threads."""

    more = {"distributed_lock": False, "lock_timeout": 5}  # noqa: RUF012


class TestSerializer(_OverKvserve, _GenericSerializerTestSuite, _GenericBackendTestSuite):
    """With JSON instead of pickle."""


class TestMutex(_OverKvserve, _GenericMutexTestSuite):
    """What `get_mutex` gives."""


def test_the_entry_point_leads_here() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    points = project["project"]["entry-points"]["dogpile.cache"]
    module, _, name = points["kvserve"].partition(":")
    assert (module, name) == (KvserveBackend.__module__, KvserveBackend.__name__)


def _create_in_process(name: str, namespace: str, created: Any, barrier: Any) -> None:
    region = make_region().configure(
        "kvserve", arguments={"name": name, "namespace": namespace, "timeout": 20}
    )

    def create() -> int:
        with created.get_lock():
            created.value += 1
        time.sleep(0.2)
        return int(created.value)

    barrier.wait()
    assert region.get_or_create("k", create) == 1


def test_one_process_of_all_creates_a_value(served: Server, namespace: str) -> None:
    context = multiprocessing.get_context("fork")
    created, barrier = context.Value("i", 0), context.Barrier(4)
    processes = [
        context.Process(target=_create_in_process, args=(served.name, namespace, created, barrier))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert created.value == 1


def test_a_lock_may_be_given_back_by_another_thread(served: Server, namespace: str) -> None:
    """As dogpile's asynchronous creators do; meanwhile nobody else has it."""
    place = {"name": served.name, "namespace": namespace, "timeout": 20, "lock_timeout": 5}
    mutex, other = (KvserveBackend(place).get_mutex("k") for _ in range(2))
    assert mutex is not None
    assert other is not None
    assert mutex.acquire()
    assert (other.acquire(False), other.locked()) == (False, True)
    thread = threading.Thread(target=mutex.release)
    thread.start()
    thread.join()
    assert not other.locked()
    assert other.acquire(False)
    other.release()


def test_records_end_after_their_time(served: Server, namespace: str) -> None:
    backend = KvserveBackend(
        {"name": served.name, "namespace": namespace, "kvserve_expiration_time": 100}
    )
    backend.set_serialized("a", b"1")
    backend.set_serialized_multi({"b": b"2"})
    assert all(90 < (backend._cache.ttl(key) or 0) <= 100 for key in "ab")
    backend.delete_multi(iter(["a", "b"]))
    assert backend.get_serialized_multi(iter(["a", "b"])) == [NO_VALUE, NO_VALUE]


@pytest.mark.usefixtures("own_clients")
def test_life_without_a_server(
    make_server: StartServer, new_names: NewNames, eventually: Eventually
) -> None:
    """Values are created, by one thread at a time, though nothing keeps them."""
    names = new_names()
    region = make_region().configure("kvserve", arguments={"name": names.name, "timeout": 5})
    inside = threading.Lock()

    def create() -> str:
        assert inside.acquire(blocking=False), "two threads at once"
        time.sleep(0.05)
        inside.release()
        return "value"

    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(region.get_or_create("k", create)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["value"] * 4
    server = make_server(names=names)
    eventually(lambda: region.backend._cache._client.lost.error is None)
    assert region.get_or_create("k", lambda: "kept") == region.get("k") == "kept"
    server.stop()
    assert region.get_or_create("k", lambda: "another") == "kept"
    assert region.get_or_create("j", lambda: "another") == "another"
