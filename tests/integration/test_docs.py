"""The pages of docs/ are tried: their Python runs and gives what it shows, their commands too.

A command that cannot run here as it stands (it installs something, takes a minute, or names a host
of the reader's) is changed by its page's test, in view; one that a test does not know fails it.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from conftest import NewNames
from support.leftovers import processes
from support.servers import Server, clean_up
from support.testing_plugin import LOAD_PLUGIN
from support.valkeys import Valkey

import kvserve

DOCS = Path(__file__).parents[2] / "docs"
Shell = Callable[[str], str]
_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: str, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of a language, each with the line that it begins at."""
    text = (DOCS / page).read_text()
    return [
        (text.count("\n", 0, match.start()) + 1, match[2])
        for match in _FENCE.finditer(text)
        if match[1] == language
    ]


def commands(page: str) -> list[str]:
    """What a reader is shown to type: the lines after `$ ` of its consoles."""
    shown = [text for _, text in (*blocks(page, "console"), *blocks(page, ""))]
    return [command for text in shown for command in re.findall(r"^\$ (.+)$", text, re.MULTILINE)]


@pytest.fixture
def shell(server: Server, tmp_path: Path) -> Iterator[Shell]:
    """Runs a command of a page in an empty directory, for the test's server; gives its output."""
    environment = os.environ | {
        "KVSERVE_NAME": server.name,
        "KVSERVE_RUNTIME_DIR": str(server.names.runtime_directory.parent),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "100",
    }

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    yield run
    for name in ("stored", "near"):  # servers that the pages start
        with contextlib.suppress(AssertionError):
            stats = run(f"kvserve stats --name {server.name}-{name} --json")
            os.kill(json.loads(stats)["pid"], signal.SIGTERM)


def need(*programs: str) -> None:
    """Skips, aloud, what needs a program that is not there."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        pytest.skip(f"needs {' and '.join(missing)}")


def test_every_page_is_tried() -> None:
    """A page that shows something to type or to run has its test below."""
    # Those about frameworks are tried by tests/integration/frameworks/test_pages*.py.
    elsewhere = {
        "aiocache.md", "celery.md", "django.md", "dogpile.md", "fastapi.md", "flask.md",
        "limits.md", "other-frameworks.md",
    }  # fmt: skip
    pages = {
        page.name
        for page in DOCS.glob("*.md")
        if page.name not in elsewhere
        and (
            commands(page.name) or any(blocks(page.name, kind) for kind in ("python", "sh", "sql"))
        )
    }
    assert pages == {
        "availability.md", "bench.md", "deployment.md", "dump-format.md", "migration.md",
        "operations.md", "recipes.md", "stores.md", "testing.md", "values.md", "webshop.md",
    }  # fmt: skip


def test_availability(new_names: NewNames, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its examples, one after another, on an instance that the second one starts. What its tables
    say is tried by test_before_server.py, test_started_server.py and test_outages.py."""
    names = new_names()
    small = {"NAME": names.name, "MEMORY": "16MiB", "MAX_VALUE": "64KiB", "QUEUE_DEPTH": "4"}
    for name, value in small.items():
        monkeypatch.setenv(f"KVSERVE_{name}", value)
    before, starting, missing, counting = (text for _, text in blocks("availability.md", "python"))
    found: dict[str, Any] = {}
    exec(before, found)
    with pytest.raises(kvserve.ServerUnavailable):
        found["cache"].get("greeting")
    exec(starting, found)
    assert found["cache"].get("greeting") == "hello"
    exec(missing, found)
    runner = doctest.DocTestRunner()
    runner.run(doctest.DocTestParser().get_doctest(counting, found, "availability.md", "", 0))
    assert (runner.tries, runner.failures) == (1, 0)
    os.kill(found["cache"].stats()["pid"], signal.SIGTERM)
    while processes(names):
        time.sleep(0.01)
    assert found["cache"].get("greeting") == "hello"  # from the kept table
    assert found["cache"].set("greeting", "goodbye") == 0
    found["cache"].close()
    clean_up(names)


@pytest.mark.parametrize("page", ["recipes.md", "operations.md"])
def test_python_pages(page: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVSERVE_NAME", server.name)
    found: dict[str, Any] = {"__name__": "example"}
    runner = doctest.DocTestRunner()
    parser = doctest.DocTestParser()
    for line, source in blocks(page, "python"):
        if ">>>" in source:
            example = parser.get_doctest(source, found, page, page, line)
            runner.run(example, clear_globs=False)
            found = example.globs
        else:
            exec(compile("\n" * line + source, page, "exec"), found)
    found["cache"].close()
    assert runner.tries > 10
    assert runner.failures == 0


def test_migration(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What its differences end with runs, and so do its examples after each. What they begin with
    runs where the old cache is installed; it is Python in any case."""
    monkeypatch.setenv("KVSERVE_NAME", server.name)
    monkeypatch.chdir(tmp_path)  # where diskcache makes its directory
    found: dict[str, Any] = {"__name__": "example"}
    clients = []
    runner = doctest.DocTestRunner()
    both = [
        (line, kind, source)
        for kind in ("diff", "python")
        for line, source in blocks("migration.md", kind)
    ]
    for _, kind, source in sorted(both):
        if kind == "diff":
            before = re.sub(r"^\+.*\n|^[ -]", "", source, flags=re.MULTILINE)
            after = re.sub(r"^-.*\n|^[ +]", "", source, flags=re.MULTILINE)
            assert len({before, after, source}) == 3
            old_code = compile(before, "migration.md, before", "exec")
            (old_cache,) = re.findall(
                r"^(?:import|from) (functools|cachetools|diskcache)", before, re.M
            )
            if importlib.util.find_spec(old_cache):
                exec(old_code, {"__name__": "before"})
            exec(compile(after, "migration.md, after", "exec"), found)
            clients.append(found["cache"])
        elif ">>>" in source:
            example = doctest.DocTestParser().get_doctest(source, found, "migration.md", "", 0)
            runner.run(example, clear_globs=False)
            found = example.globs
        else:
            exec(source, found)
    for client in clients:
        client.close()
    assert len(clients) == 4
    assert runner.tries > 10
    assert runner.failures == 0


def test_links_of_the_page_about_migration() -> None:
    """They lead to pages, and to headings of these."""
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", (DOCS / "migration.md").read_text())
    assert len(links) > 20
    for page, heading in links:
        text = (DOCS / (page or "migration.md")).read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
        assert not heading or heading in anchors, (page, heading)


def test_values(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table of values is tried by tests/unit/test_values.py; here its examples."""
    monkeypatch.setenv("KVSERVE_NAME", server.name)
    found: dict[str, Any] = {"__name__": "example"}
    definitions, *examples = blocks("values.md", "python")
    exec(definitions[1], found)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    with server.connect() as found["cache"]:
        for line, source in examples:
            parsed = doctest.DocTestParser().get_doctest(source, found, "values.md", "", line)
            runner.run(parsed, clear_globs=False)
            found |= parsed.globs
    assert runner.tries > 20
    assert runner.failures == 0


def test_deployment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker models are tried by tests/integration/worker_models; here its examples."""
    monkeypatch.setenv("KVSERVE_NAME", server.name)
    found: dict[str, Any] = {}
    for _, source in blocks("deployment.md", "python"):
        exec(source, found)
    assert [found["count_visit"](), found["count_visit"]()] == [1, 2]
    server.stop()
    assert found["count_visit"]() is None
    found["cache"].close()


def test_testing(tmp_path: Path) -> None:
    """Each block is a file of the name in its first line."""
    for _, source in (*blocks("testing.md", "python"), *blocks("testing.md", "toml")):
        name = re.match(r"# (\S+)\n", source)
        assert name, source
        (tmp_path / name[1]).write_text(source)
    settings = [source for _, source in blocks("testing.md", "toml")]
    runs = [settings[1], settings[0] + settings[1].split("\n", 2)[2]]
    for run, toml in enumerate(runs):
        (tmp_path / "pyproject.toml").write_text(toml)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-W", "error", *LOAD_PLUGIN],
            env=os.environ | {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:{tmp_path}"},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert "5 passed" in done.stdout, done.stdout
        if run == 0:  # the other way to give settings, which does not go with autostart
            (tmp_path / "conftest.py").unlink()


def test_bench(shell: Shell, tmp_path: Path) -> None:
    need("xzcat", "od", "awk", "xz")
    (tmp_path / "requests.txt").write_text(blocks("bench.md", "")[1][1])
    (tmp_path / "benchmarks").symlink_to(DOCS.parent / "benchmarks")
    live, replay, unpack, trace = commands("bench.md")
    shorter = live.replace("--seconds 10 --keys 100000", "--seconds 0.2 --keys 1000")
    assert shorter != live
    assert "failures 0\n" in shell(shorter)
    assert (tmp_path / "latency.svg").stat().st_size > 1000
    assert "hit_ratio" in shell(f"{replay} --memory 1MiB")
    shell(unpack)
    printed = shell(f"{trace} --memory 1MiB --memory 4MiB --json")
    shown = dict(
        re.findall(r"^ +(\d+) MiB +\S+ +([\d,]+) ", blocks("bench.md", "")[0][1], re.MULTILINE)
    )
    for size in ("1", "4"):  # the page's figures, but for the last digits
        hits = int(shown[size].replace(",", ""))
        assert any(
            abs(int(number) - hits) < hits / 100 for number in re.findall(r'"hits": (\d+)', printed)
        ), (shown[size], printed)


def test_the_recordings_of_bench_are_replayed(shell: Shell, tmp_path: Path) -> None:
    need("awk", "xz")
    memcached, valkey, sizes = (text for _, text in blocks("bench.md", "sh"))
    (tmp_path / "memcached.log").write_text(
        "<30 get page:1\n>30 END\n<30 set page:1 0 60 512\n>30 STORED\n<30 get page:1 page:2\n"
        "<30 delete page:1\n"
    )
    shell(memcached)
    assert (tmp_path / "raw.txt").read_text().split("\n") == [
        "page:1", "page:1 512 set", "page:1", "page:2", "page:1 delete", "",
    ]  # fmt: skip
    shell(sizes)
    assert '"gets": 3' in shell("kvserve bench --trace requests.xz --memory 1MiB --json")
    monitor = valkey.replace("timeout 60 valkey-cli monitor", "cat monitor.log")
    assert monitor != valkey
    (tmp_path / "monitor.log").write_text(
        'OK\n1.5 [0 unix:s] "GET" "a"\n1.6 [0 unix:s] "set" "a" "four"\n1.7 [0 unix:s] "DEL" "a"\n'
    )
    shell(monitor)
    assert (tmp_path / "raw.txt").read_text() == "a\na 4 set\na delete\n"


def test_stores(shell: Shell, server: Server, tmp_path: Path) -> None:
    need("sqlite3")
    name, flags = f"{server.name}-stored", "--memory 4MiB --workers 1 --queue-depth 2"
    shell(f"kvserve serve --daemon --no-keep --name {name} --store sqlite:///cache.db {flags}")
    shell(f"kvserve set --name {name} user:1 Ada")
    schema = shell("sqlite3 cache.db .schema")
    ((_, shown),) = blocks("stores.md", "sql")
    assert " ".join(shown.split()) in " ".join(schema.split())
    *edits, _, serve = commands("stores.md")
    for edit in edits:
        shell(edit.replace("kvserve flush", f"kvserve flush --yes --name {name}"))
    assert shell(f"kvserve get --name {name} greeting") == "hello"
    assert shell(f"kvserve get --name {name} hits") == "42"
    assert 0 < float(shell(f"kvserve ttl --name {name} greeting")) <= 60

    directory = tmp_path / "v"
    directory.mkdir()
    valkey = Valkey(directory)
    try:
        near = serve.replace("valkey://cache.example:6379", valkey.url)
        assert near != serve
        shell(f"{near} --daemon --no-keep --name {server.name}-near {flags}")
        shell(f"kvserve set --name {server.name}-near user:1 Ada")
        assert valkey.call("GET", "user:1")
    finally:
        valkey.kill()


def test_webshop(shell: Shell) -> None:
    install, measure = commands("webshop.md")
    assert install.startswith("pip install ")
    printed = shell(f"cd {DOCS.parent} && {measure} --seconds 0.3 --workers 1")
    modes = [line.split()[0] for line in printed.splitlines() if line[:1].isalpha()]
    assert modes == ["plain", "sqlite", "valkey"]


def test_dump_format(shell: Shell, tmp_path: Path) -> None:
    need("zstd")
    shell("kvserve set user:1 Ada --ttl 60 && kvserve incr visits 41")
    dump, load = commands("dump-format.md")
    shell(dump)
    assert re.fullmatch(r"loaded 2, skipped 0 bad records, 0 expired\n", shell(load))
    ((_, source),) = blocks("dump-format.md", "python")
    found: dict[str, Any] = {"zlib": zlib, "msgpack": msgpack}
    exec(source, found)
    shell("zstd -dc cache.zst > cache.dump")
    with (tmp_path / "cache.dump").open("rb") as stream:
        items = {key: (codec, payload) for key, codec, payload, _ in found["read_dump"](stream)}
    assert items == {"user:1": (1, b"Ada"), "visits": (2, (41).to_bytes(8, "little"))}
