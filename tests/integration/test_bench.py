"""`kvserve bench` against live instances: workloads, modes, pictures, and its traces beside one."""

from __future__ import annotations

import json
import lzma
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from array import array
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from support.commands import COMMAND, kvserve, on_terminal
from support.servers import Server, StartServer

from kvserve.bench.survey import Survey
from kvserve.bench.trace import GET
from kvserve.cli.commands import cli
from kvserve.names import Names

TRACE = Path(__file__).parents[2] / "benchmarks" / "data" / "web07.trace.xz"
REQUESTS = 76_118
DISTINCT = 20_484
VALUE_BYTES = 100
S3_FIFO = {204: 0.5621, 2048: 0.4188}  # miss ratios, see benchmarks/data/README.md
SHORT = ("--seconds", "0.3", "--keys", "200")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real trace as text."""
    ids = array("I", lzma.decompress(TRACE.read_bytes()))
    if sys.byteorder == "little":
        ids.byteswap()
    path = tmp_path_factory.mktemp("trace") / "web07.txt.xz"
    path.write_bytes(lzma.compress(b"".join(b"%08x\n" % number for number in ids), preset=0))
    return path


def report_of(*arguments: str) -> Any:
    """What the command prints with --json."""
    done = kvserve("bench", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    return json.loads(done.stdout)


# --- Live


@pytest.mark.parametrize(
    ("workload", "kinds"),
    [
        ("a", {"get", "set"}),
        ("B", {"get", "set"}),
        ("c", {"get"}),
        ("d", {"get", "set"}),
        ("f", {"get", "modify"}),
    ],
)
def test_workloads_of_ycsb(own: tuple[Server, Any], workload: str, kinds: set[str]) -> None:
    server, cache = own
    flags = ("--name", server.name, "--workload", workload, "--processes", "2", *SHORT)
    report = report_of(*flags)
    assert report["workload"] == workload.upper()
    counts = {kind: report[kind]["operations"] for kind in ("get", "miss", "set", "modify")}
    assert {kind for kind, count in counts.items() if count} == kinds
    assert report["failures"] == 0
    rates = [report[kind]["per_second"] for kind in counts]
    assert report["per_second"] == sum(rates) > 0
    assert list(cache.scan()) == []
    if workload == "d":
        assert cache.stats()["deletes"] > 200  # what it inserted was there, and was deleted


def test_a_writer_is_refused_where_none_is_allowed(own: tuple[Server, Any]) -> None:
    server, cache = own
    done = kvserve("bench", "--name", server.name, "--mode", "writer", *SHORT)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.startswith(b"kvserve: ")
    assert done.stderr.count(b"\n") == 1
    assert list(cache.scan()) == []


def test_writers_set_without_a_worker(make_server: StartServer) -> None:
    server = make_server("--writers", "2")
    flags = ("--name", server.name, "--mode", "writer", "--processes", "2", *SHORT)
    report = report_of(*flags, "--workload", "a")
    assert report["set"]["operations"] > 0
    with server.connect() as cache:
        assert cache.stats()["operations"]["set"] == 0
        assert list(cache.scan()) == []


# --- Traces


def test_a_real_trace_misses_as_s3_fifo_does(trace: Path, names: Names) -> None:
    survey = Survey(VALUE_BYTES)
    survey.add([(GET, b"%08x" % number, VALUE_BYTES) for number in range(DISTINCT)])
    sizes = {}
    for memory_bytes in range(16 * 1024, 2**20, 64):
        objects = survey.plan(memory_bytes).capacity_items
        if objects in S3_FIFO:
            sizes.setdefault(memory_bytes, objects)
    chosen = {objects: memory_bytes for memory_bytes, objects in reversed(sizes.items())}
    flags = [word for memory in chosen.values() for word in ("--memory", str(memory))]
    report = report_of("--trace", str(trace), *flags, "--name", names.name)
    assert (report["requests"], report["gets"], report["keys"]) == (REQUESTS, REQUESTS, DISTINCT)
    assert [size["memory_bytes"] for size in report["sizes"]] == sorted(chosen.values())
    for size, (objects, miss_ratio) in zip(report["sizes"], S3_FIFO.items(), strict=True):
        assert abs(1 - size["hit_ratio"] - miss_ratio) < 0.01
        assert size["hit_ratio"] == round(size["hits"] / REQUESTS, 6)
        assert objects * 0.95 < size["items"] <= objects


def test_by_itself_it_finds_the_size_that_holds_all(trace: Path, names: Names) -> None:
    report = report_of("--trace", str(trace), "--name", names.name)
    *smaller, largest = report["sizes"]
    assert (largest["items"], largest["hits"]) == (DISTINCT, REQUESTS - DISTINCT)
    assert smaller[0]["items"] < DISTINCT / 40
    assert not any(size["is_live"] for size in report["sizes"])
    ratios = [size["hit_ratio"] for size in report["sizes"]]
    assert ratios == sorted(ratios)


def test_the_live_instance_is_marked_and_left_alone(own: tuple[Server, Any], trace: Path) -> None:
    server, cache = own
    before = cache.stats()
    report = report_of("--trace", str(trace), "--memory", "1MiB", "--name", server.name)
    marked = [size["memory_bytes"] for size in report["sizes"] if size["is_live"]]
    after = cache.stats()
    assert marked == [after["memory_bytes"]]
    assert [after[field] for field in ("hits", "misses", "sets", "items")] == [
        before[field] for field in ("hits", "misses", "sets", "items")
    ]
    status, screen = on_terminal("bench", "--trace", str(trace), "--name", server.name)
    assert status == 0
    assert re.search(r"16 MiB +20,484 +55,634 +73.09 % +the live instance", screen)


def test_a_trace_from_a_pipe(names: Names) -> None:
    flags = ("--name", names.name, "--memory", "1MiB", "--value-size", "20")
    done = kvserve("bench", "--trace", "-", *flags, stdin=b"a\nb 40\na\nc set\nc\nb delete\nb\n")
    assert (done.returncode, done.stderr) == (0, b"")
    lines = dict(line.split(" ", 1) for line in done.stdout.decode().splitlines())
    assert lines["trace"] == "standard input"
    assert (lines["gets"], lines["keys"], lines["item_bytes"]) == ("5", "3", "27")
    assert (lines["size.0.hits"], lines["size.0.items"]) == ("2", "3")


def test_a_trace_from_a_fifo(tmp_path: Path, names: Names) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(b"a\na\n" * 10_000,))
    writer.start()
    report = report_of("--trace", str(fifo), "--name", names.name)
    writer.join()
    assert (report["gets"], report["sizes"][-1]["hits"]) == (20_000, 19_999)


def test_ctrl_c_ends_a_replay_with_what_it_has(tmp_path: Path, names: Names) -> None:
    path = tmp_path / "trace"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(1_000_000)))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "bench", "--trace", str(path), "--name", names.name, "--json"],
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    bar = b""
    while bar.count(b"replaying") < 3:  # drawn before the first request, and then after some
        bar += os.read(ours, 65536)
    drain = threading.Thread(target=_drain, args=(ours,))
    drain.start()
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate()
    drain.join()
    assert process.returncode == 130
    report = json.loads(stdout)
    assert report["interrupted"]
    assert report["requests"] < 1_000_000


def _drain(descriptor: int) -> None:
    """Reads a terminal to its end, so that nobody waits to write to it."""
    try:
        while os.read(descriptor, 65536):
            pass
    except OSError:  # how Linux tells the end of a terminal
        os.close(descriptor)


# --- Pictures


def texts(picture: Path) -> set[str]:
    """The words in an SVG."""
    root = ElementTree.parse(picture).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.findall(".//{*}path")
    return {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}


def test_a_picture_of_latencies(shared: Server, tmp_path: Path) -> None:
    picture = tmp_path / "latency.svg"
    flags = ("--name", shared.name, "--workload", "a", "--plot", str(picture), *SHORT)
    assert report_of(*flags)["miss"]["operations"] == 0
    words = texts(picture)
    assert {"get", "set", "50 %", "90 %", "99 %"} <= words
    assert not {"miss", "modify"} & words


def test_a_picture_of_hit_ratios(shared: Server, trace: Path, tmp_path: Path) -> None:
    picture = tmp_path / "hits.svg"
    report_of("--trace", str(trace), "--name", shared.name, "--plot", str(picture))
    assert {"1 MiB", "16 MiB", "the live instance", "hit ratio"} <= texts(picture)


def test_a_picture_of_another_kind(trace: Path, names: Names, tmp_path: Path) -> None:
    picture = tmp_path / "hits.png"
    report_of("--trace", str(trace), "--name", names.name, "--plot", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_costs_no_results(shared: Server) -> None:
    done = kvserve("bench", "--name", shared.name, "--plot", "/proc/picture.svg", *SHORT)
    assert b"\nget.operations " in done.stdout
    assert done.returncode == 74
    assert done.stderr == b"kvserve: /proc/picture.svg: No such file or directory\n"


def test_a_picture_without_a_single_get(tmp_path: Path, names: Names) -> None:
    path = tmp_path / "trace"
    path.write_bytes(b"key set\n")
    picture = tmp_path / "hits.svg"
    flags = ("--trace", str(path), "--name", names.name, "--plot", str(picture))
    done = kvserve("bench", *flags)
    assert (done.returncode, picture.exists()) == (0, False)
    assert done.stderr == f"kvserve: {picture} is not drawn: no gets, so no hit ratio\n".encode()


def test_a_picture_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)  # root may all
    result = CliRunner().invoke(cli, ["bench", "--plot", str(tmp_path / "picture.svg")])
    assert result.exit_code == 2
    assert f"directory '{tmp_path}' is not writable" in " ".join(result.output.split())


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(cli, ["bench", "--plot", "picture.svg"])
    assert result.exit_code == 2
    assert "drawing needs matplotlib; run: pip install 'kvserve[plot]'" in result.output
