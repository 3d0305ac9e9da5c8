"""The short way of `kvserve get`: what it spares, and that it answers as the long way does."""

from __future__ import annotations

import datetime
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.commands import Run, answers, kvserve, on_terminal
from support.servers import Server, StartServer

import kvserve as package
from kvserve.cli import fast_get
from kvserve.cli.main import main
from kvserve.names import Names

HEAVY = {
    "asyncio", "click", "dataclasses", "importlib.metadata", "inspect", "logging", "rich",
    "secrets", "tempfile", "tomllib", "uvloop", "kvserve.client.blocking.client", "kvserve.config",
    "kvserve.parent", "kvserve.worker",
}  # fmt: skip
LONG = ("--timeout", "2")  # which the short way does not know
VALUES: dict[str | bytes, Any] = {
    "text": "grüße",
    "bytes": b"\0\xff\n",
    "empty": "",
    "int": -5,
    "none": None,
    "nested": {"a": [1, b"\x00"]},
    "moment": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    b"raw-\xff": "v",
    "": "no key is empty",
    "nobody": "not stored",
    "k" * 1025: "too long",
}


@pytest.fixture(scope="module")
def shared(make_module_server: StartServer) -> Server:
    """One server with one record of each kind."""
    server = make_module_server()
    with server.connect() as cache:
        cache.set_many({key: VALUES[key] for key in list(VALUES)[:-3]})
    return server


def told(done: Run) -> tuple[int, bytes, bytes]:
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("key", VALUES, ids=lambda key: repr(key)[:12])
def test_both_ways_answer_alike(shared: Server, key: str | bytes) -> None:
    words = ("--name", shared.name, key)
    assert told(kvserve("get", *words)) == told(kvserve("get", *words, *LONG))
    assert told(kvserve("get", key, KVSERVE_NAME=shared.name)) == told(kvserve("get", *words))


def test_both_ways_fail_alike(names: Names) -> None:
    for name in (names.name, "no/name", ""):
        words = ("get", "k", "--name", name)
        assert told(kvserve(*words)) == told(kvserve(*words, *LONG))
        assert kvserve(*words).stderr.count(b"\n") == 1


def test_both_ways_understand_every_command_line_alike(
    shared: Server,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    words = ("text", "nobody", "", "-5", "-", "--", "\udcff", "-h", "--json", "--timeout", "--nam")
    words += ("--name", f"--name={shared.name}", shared.name, names.name, "no/name")

    def told(line: list[str]) -> tuple[object, bytes, bytes]:
        monkeypatch.setattr(sys, "argv", ["kvserve", *line])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code or 0, *capsysbinary.readouterr())

    short_lines = [
        line
        for count in range(4)
        for more in itertools.product(words, repeat=count)
        if fast_get.parse(line := ["get", *more])
    ]
    assert len(short_lines) > 200
    for name in (shared.name, names.name, "no/name", ""):
        monkeypatch.setenv("KVSERVE_NAME", name)
        for line in short_lines:
            quick = told(line)
            with monkeypatch.context() as patch:
                patch.setattr(fast_get, "parse", lambda _line: None)
                assert (line, name, quick) == (line, name, told(line))


@pytest.mark.parametrize("key", ["text", "nobody"])
def test_both_ways_look_alike_on_a_terminal(shared: Server, key: str) -> None:
    words = ("get", key, "--name", shared.name)
    assert on_terminal(*words) == on_terminal(*words, *LONG)


@pytest.mark.parametrize(
    "words",
    [
        ["get"],
        ["get", "a", "b"],
        ["get", "a", "--json"],
        ["get", "-5"],
        ["get", "--", "a"],
        ["get", "a", "--name"],
        ["get", "--name", "n"],
        ["get", "--help"],
        ["--help"],
        ["ttl", "a"],
        [],
    ],
    ids=" ".join,
)
def test_what_it_does_not_know_goes_the_long_way(words: list[str]) -> None:
    assert fast_get.parse(words) is None


def test_what_a_worker_must_answer_goes_the_long_way(
    make_server: StartServer, tmp_path: Path
) -> None:
    store = ("--store", f"sqlite:///{tmp_path / 'store.db'}")
    first = make_server(*store)
    assert answers(kvserve("set", "stored", "v", "--name", first.name), 0, b"")
    first.stop()
    second = make_server(*store, "--fresh", names=first.names)
    assert answers(kvserve("get", "stored", "--name", second.name), 0, b"v")
    assert answers(kvserve("get", "nobody", "--name", second.name), 1, b"")


@pytest.mark.parametrize("key", ["text", "nobody"])
def test_it_imports_nothing_heavy(shared: Server, key: str) -> None:
    # Without `site`: an editable installation imports much there to find the package.
    path = [str(Path(package.__file__).parents[1]), *filter(None, sys.path)]
    program = (
        f"import atexit, sys; sys.path[:] = {path!r}\n"
        f"atexit.register(lambda: print(*({HEAVY!r} & set(sys.modules)), file=sys.stderr))\n"
        "from kvserve.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, "get", key, "--name", shared.name],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (key == "nobody", b"\n")


def test_importing_the_package_imports_no_client() -> None:
    program = (
        "import sys, kvserve; print('kvserve.client' in sys.modules, kvserve.connect.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"False connect\n"
