"""What all adapters share: one client for the same options, and what these mean."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from fractions import Fraction

import pytest
from conftest import NewNames
from support.servers import Server, StartServer

import kvserve
from kvserve.integrations.shared import (
    LOG_SECONDS,
    OPTIONS,
    close_clients,
    open_async_namespace,
    open_namespace,
    set_many,
)

KEY = "sixteen letters or more"


def test_importing_it_imports_no_framework() -> None:
    code = """
import sys
import kvserve.integrations, kvserve.integrations.shared
loaded = {name.split(".")[0] for name in sys.modules}
print(*sorted(loaded & {"django", "flask", "cachelib", "dogpile", "asgiref"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_same_options_are_one_client(served: Server, namespace: str) -> None:
    found: list[kvserve.Client] = []

    def open_one(**options: object) -> None:
        here = open_namespace({"name": served.name, **options}, namespace=namespace)
        found.append(here._client)

    threads = [threading.Thread(target=open_one, kwargs={"timeout": 20}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(client) for client in found}) == 1
    for other in ({"timeout": 21}, {"timeout": 20, "codec": "json"}, {"start": {"workers": 2}}):
        open_one(**other)
    assert len({id(client) for client in found}) == 4
    open_one(timeout=20, namespace="another")
    assert found[-1] is found[0]


def test_no_name_is_the_environments_each_time(
    served: Server, new_names: NewNames, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    for empty in ({}, {"name": None}, {"name": ""}):
        monkeypatch.setenv("KVSERVE_NAME", served.name)
        open_namespace(empty, namespace=namespace).set("k", 1)
        monkeypatch.setenv("KVSERVE_NAME", new_names().name)
        assert open_namespace(empty, namespace=namespace).get("k") is None


def test_values_of_any_kind_are_pickled_and_signed_on_request(
    served: Server, namespace: str
) -> None:
    place = {"name": served.name, "namespace": namespace, "timeout": 20}
    plain, signed = (open_namespace({**place, **more}, namespace="") for more in (
        {}, {"signing_key": KEY}
    ))  # fmt: skip
    plain.set("plain", Fraction(1, 2))
    signed.set("signed", Fraction(1, 3))
    assert plain.get("plain") == Fraction(1, 2)
    assert signed.get("signed") == Fraction(1, 3)
    for reader, key in ((signed, "plain"), (plain, "signed")):
        # An unreadable value is a miss, as after a deployment that has renamed a class.
        assert reader.get(key, "refused") == reader.get_here(key, "refused") == "refused"
        assert reader.get_record(key) is None
        assert reader.get_many([key]) == {}
    same = open_namespace({**place, "signing_key": KEY.encode()}, namespace="")
    assert same.get("signed") == Fraction(1, 3)
    native = open_namespace(place, namespace="", codec=None)
    with pytest.raises(kvserve.InvalidValue):
        native.set("k", Fraction(1, 2))
    as_json = open_namespace({**place, "codec": "json"}, namespace="")
    as_json.set("k", {"a": [1, None]})
    assert native.get("k") == {"a": [1, None]}


def test_wrong_options_are_named_before_anything_is_asked(names: kvserve.names.Names) -> None:
    for options, words in (
        ({"memory": 1}, "unknown options memory; there are .*on_error"),
        ({"codec": "yaml"}, "codec = 'yaml': use 'pickle', 'json'"),
        ({"codec": "json", "signing_key": KEY}, "signing_key goes with codec = 'pickle' alone"),
        ({"timeout": -1}, "timeout"),
        ({"signing_key": "short"}, "at least 16"),
    ):
        with pytest.raises(kvserve.InvalidArgument, match=words):
            open_namespace({"name": names.name, **options}, namespace="n")
    assert {"name", "namespace", "codec", "signing_key", "start", "timeout"} <= OPTIONS


def test_set_many_stores_what_is_not_too_large(served: Server, namespace: str) -> None:
    here = open_namespace({"name": served.name, "timeout": 20}, namespace=namespace)
    large = os.urandom(300_000)  # the server's limit is 256 KiB
    here.set("b", "old")
    values = {"a": 1, "b": large, "c": {1, 2}, "d": large}
    assert sorted(set_many(here, values, 60)) == ["b", "d"]
    assert here.get_many(values) == {"a": 1, "c": {1, 2}}
    assert set_many(here, {}, 60) == []


def test_what_is_too_large_is_logged_once_a_second(
    served: Server,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = open_namespace({"name": served.name, "timeout": 20}, namespace=namespace)
    now = 1000.0
    monkeypatch.setattr("kvserve.integrations.shared.time.monotonic", lambda: now)
    monkeypatch.setattr("kvserve.integrations.shared.TOO_LARGE.told_at", 0.0)
    large = os.urandom(300_000)
    assert set_many(here, {"a": large, "b": large}, 60) != []
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("not stored: ")
    assert "262,144" in caplog.messages[0] or "262144" in caplog.messages[0]
    now += LOG_SECONDS
    set_many(here, {"a": large}, 60)
    assert len(caplog.messages) == 2


def test_asyncio_over_loops_that_end(served: Server, namespace: str) -> None:
    here = open_async_namespace({"name": served.name, "timeout": 20}, namespace=namespace)
    for number in range(3):
        asyncio.run(here.set("k", number))
        assert asyncio.run(here.get("k")) == number
    blocking = open_namespace({"name": served.name, "timeout": 20}, namespace=namespace)
    assert blocking.get("k") == 2


@pytest.mark.usefixtures("own_clients")
def test_trusted_writers(make_server: StartServer) -> None:
    server = make_server("--writers", "2")
    here = open_namespace({"name": server.name, "write": "direct", "timeout": 20}, namespace="n")
    here.set("k", Fraction(1, 2), 0)
    assert here.get("k") is None
    here.set("k" * 3000, Fraction(1, 2))
    assert here.get("k" * 3000) == Fraction(1, 2)


@pytest.mark.usefixtures("own_clients")
def test_a_lost_clear_is_seen_here_at_once(
    make_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A namespace that is read in C asks the client for each key while anything is lost."""
    caplog.set_level(logging.CRITICAL)
    server = make_server()
    one, two = (
        open_namespace({"name": server.name, "timeout": 5, "namespace": name}, namespace="")
        for name in ("one", "two")
    )
    for here in (one, two):
        here.set_many({"a": 1, "b": 2})
    server.stop()
    assert one.get_many(["a", "b"]) == {"a": 1, "b": 2}
    one.delete("a")
    assert (one.get("a"), one.get("b"), two.get("a")) == (None, 2, 1)
    assert one.get_many(["a", "b"]) == {"b": 2}
    assert one.get_here("a") is None
    one.clear()
    assert (one.get("b"), one.get_many(["a", "b"]), two.get("b")) == (None, {}, 2)
    assert one.get_record("b") is None


def test_close_clients_forgets_them(served: Server, namespace: str) -> None:
    place = {"name": served.name, "timeout": 19}
    before = open_namespace(place, namespace=namespace)
    before.set("k", 1)
    close_clients()
    with pytest.raises(kvserve.ClientClosed):
        before.set("k", 2)
    assert open_namespace(place, namespace=namespace).get("k") == 1
