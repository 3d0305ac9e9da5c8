"""Traces for `kvserve bench --trace`: what a line may be, what a trace holds, and its replay."""

from __future__ import annotations

import gzip
import lzma
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvserve.bench import survey as surveying
from kvserve.bench.replay import Replayed, replay
from kvserve.bench.survey import Sizes, Survey, choose, survey
from kvserve.bench.trace import DELETE, GET, SET, Request, opened
from kvserve.cli.commands import cli
from kvserve.errors import InvalidArgument
from kvserve.limits import KEY_BYTES_MAX, MIB

VALUE_BYTES = 7


def silent(_done: int) -> None:
    """For whoever shows no progress."""


def written(path: Path, requests: list[Request]) -> str:
    """A trace of these requests."""
    words = {GET: b"", SET: b" set", DELETE: b" delete"}
    lines = [b"%s %d%s\n" % (key, size or 0, words[kind]) for kind, key, size in requests]
    path.write_bytes(b"".join(lines))
    return str(path)


def read(path: str) -> list[Request]:
    """All requests of a trace."""
    with opened(path) as trace:
        return [request for chunk in trace.chunks(silent) for request in chunk]


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (b"k", (GET, b"k", None)),
        (b"k 512", (GET, b"k", 512)),
        (b"k 0", (GET, b"k", 0)),
        (b"k set", (SET, b"k", None)),
        (b"k 9 SET", (SET, b"k", 9)),
        (b"  k\t9   get\r", (GET, b"k", 9)),
        (b"get", (GET, b"get", None)),
        (b"17", (GET, b"17", None)),
        (b"17 delete", (DELETE, b"17", None)),
        (b"\xff\x00", (GET, b"\xff\x00", None)),
        (b"k" * KEY_BYTES_MAX, (GET, b"k" * KEY_BYTES_MAX, None)),
    ],
)
def test_lines(tmp_path: Path, line: bytes, request_: Request) -> None:
    path = tmp_path / "trace"
    path.write_bytes(line + b"\n\n" + line)  # an empty line is none, and the last needs no end
    assert read(str(path)) == [request_, request_]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"k -1", "'k -1' is no request; a line is KEY [BYTES] [get|set|delete]"),
        (b"k get 5", "'k get 5' is no request"),
        (b"k 5 get more", "is no request"),
        (b"k fetch", "is no request"),
        (b"k" * (KEY_BYTES_MAX + 1), "a key has at most 1,024 bytes, this one 1,025"),
        (b"k" * 100_000, "the line is too long"),
    ],
)
def test_what_is_no_request_is_told_with_its_line(tmp_path: Path, line: bytes, why: str) -> None:
    path = tmp_path / "trace"
    path.write_bytes(b"fine 5\n\n" + line + b"\nfine\n")
    result = CliRunner().invoke(cli, ["bench", "--trace", str(path)])
    assert result.exit_code == 2
    assert result.output.startswith(f"kvserve: {path}, line 3: ")
    assert why in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("flags", ["--workload a", "--seconds 5", "--mode direct", "--keys 10"])
def test_flags_of_a_live_measurement_are_refused(tmp_path: Path, flags: str) -> None:
    path = written(tmp_path / "trace", [(GET, b"key", 5)])
    result = CliRunner().invoke(cli, ["bench", "--trace", path, *flags.split()])
    assert result.exit_code == 2
    assert f"{flags.split()[0]} measures a live instance; --trace replays a file." in result.output


@pytest.mark.parametrize(("suffix", "packer"), [(".gz", gzip), (".xz", lzma)])
def test_compressed(tmp_path: Path, suffix: str, packer: type[gzip]) -> None:
    data = b"".join(b"key%d %d\n" % (number, number) for number in range(10_000))
    path = tmp_path / f"trace{suffix}"
    path.write_bytes(packer.compress(data))
    assert read(str(path)) == [(GET, b"key%d" % number, number) for number in range(10_000)]
    path.write_bytes(packer.compress(data)[:-100])
    with pytest.raises(InvalidArgument, match="cannot be decompressed"):
        read(str(path))
    path.write_bytes(data)
    with pytest.raises(InvalidArgument, match="cannot be decompressed"):
        read(str(path))


def test_it_can_be_read_again_and_says_how_far_it_is(tmp_path: Path) -> None:
    requests = [(GET, b"key%d" % number, 5) for number in range(10_000)]
    shown: list[int] = []
    with opened(written(tmp_path / "trace", requests)) as trace:
        for _ in range(2):
            assert [it for chunk in trace.chunks(shown.append) for it in chunk] == requests
        assert len(shown) == 6
        assert shown[-1] == trace.size_bytes


def test_survey_counts() -> None:
    found = Survey(VALUE_BYTES)
    found.add([(GET, b"four", 96), (SET, b"four", 196), (GET, b"six666", 94)])
    found.add([(DELETE, b"gone", 1_000), (GET, b"six666", 94)])
    assert (found.requests, found.keys, found.largest_value_bytes) == (5, 2, 196)
    assert found.item_bytes == (200 + 100) // 2


def test_a_size_once_told_is_not_forgotten() -> None:
    found = Survey(VALUE_BYTES)
    found.add([(GET, b"told", None), (SET, b"told", 96), (GET, b"told", None)])
    assert found.item_bytes == 100
    found.add([(GET, b"mute", None)])
    assert found.item_bytes == (100 + 4 + VALUE_BYTES) // 2


def test_survey_estimates_what_it_cannot_hold() -> None:
    found = Survey(VALUE_BYTES)
    count = 600_000
    for start in range(0, count, 1000):
        chunk = [(GET, b"%d" % number, 94) for number in range(start, start + 1000)]
        found.add(chunk)
        found.add(chunk)
    assert abs(found.keys - count) < 0.03 * count  # eight times what chance does to 2**16 keys
    assert found.item_bytes in (99, 100)


def surveyed(keys: int, value_bytes: int = 93) -> Survey:
    """The survey of a trace with so many keys."""
    found = Survey(VALUE_BYTES)
    found.add([(GET, b"%07d" % number, value_bytes) for number in range(keys)])
    return found


def test_sizes_are_powers_of_two_up_to_what_holds_all() -> None:
    sizes = list(choose(surveyed(100_000), [], None).tables.items())
    assert [2 * memory for memory, _ in sizes[:-1]] == [memory for memory, _ in sizes[1:]]
    assert sizes[-1][1].capacity_items >= 100_000 * 1.2
    assert sizes[0][1].capacity_items < 100_000 / 40


def test_the_largest_size_takes_the_largest_value() -> None:
    found = surveyed(3, 500_000)
    found.add([(GET, b"small", 1)] * 100)
    *smaller, largest = choose(found, [], None).tables.values()
    assert largest.value_bytes_max >= 500_000
    assert all(geometry.value_bytes_max < 500_000 for geometry in smaller)
    assert all(geometry.capacity_items > 0 for geometry in smaller)


def test_the_live_instances_size_is_marked_or_added() -> None:
    found = surveyed(1000)
    named = [MIB, 2 * MIB]
    marked = choose(found, named, 2 * MIB - 4000)  # a server's memory is rounded down
    assert (list(marked.tables), marked.live_bytes) == (named, 2 * MIB)
    added = choose(found, named, MIB + MIB // 2)
    assert list(added.tables) == [MIB, MIB + MIB // 2, 2 * MIB]
    assert added.live_bytes == MIB + MIB // 2
    assert choose(found, named, None).live_bytes is None


def test_sizes_that_this_machine_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveying, "_available_bytes", lambda: 7 * MIB)
    found = surveyed(1000)
    with pytest.raises(InvalidArgument, match="more than the 7 MiB that this machine has left"):
        choose(found, [4 * MIB, 5 * MIB], None)
    chosen = choose(found, [2 * MIB, 4 * MIB], 8 * MIB)
    assert (list(chosen.tables), chosen.live_bytes) == ([2 * MIB, 4 * MIB], None)
    assert chosen.left_out_bytes == [8 * MIB]
    large = choose(surveyed(100_000), [], None)
    assert sum(large.tables) <= 7 * MIB < sum(large.tables) + min(large.left_out_bytes)


def replayed(path: str, sizes: list[int]) -> Replayed:
    """What these sizes find in a trace."""
    with opened(path) as trace:
        found = survey(trace, VALUE_BYTES, silent)
        return replay(trace, found, choose(found, sizes, None), silent)


def test_where_all_fits_it_is_a_dict(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    model: set[bytes] = set()
    requests: list[Request] = []
    hits = 0
    for _ in range(20_000):
        kind = dice.choices((GET, SET, DELETE), weights=(70, 20, 10))[0]
        key = b"k%d" % dice.randrange(500)
        requests.append((kind, key, dice.randrange(200)))
        hits += kind == GET and key in model
        (model.discard if kind == DELETE else model.add)(key)
    path = written(tmp_path / "trace", requests)
    found = replayed(path, [16 * 1024, 4 * MIB, 8 * MIB])
    assert (found.requests, found.interrupted) == (20_000, False)
    assert found.gets == sum(kind == GET for kind, _, _ in requests)
    small, *large = found.rows
    assert [(row.hits, row.items, row.too_large) for row in large] == [(hits, len(model), 0)] * 2
    assert 0 < small.hits < hits
    assert 0 < small.items < len(model)
    assert replayed(path, [16 * 1024]).rows == [small]  # the same at every run


def test_values_too_large_are_counted_and_not_stored(tmp_path: Path) -> None:
    huge = 65 * MIB  # more than kvserve ever takes
    requests = [(GET, b"small", 9), (GET, b"large", 900_000), (GET, b"huge", huge)] * 3
    found = replayed(written(tmp_path / "trace", requests), [4 * MIB, 1024 * MIB])
    assert [(row.hits, row.too_large, row.items) for row in found.rows] == [(2, 6, 1), (4, 3, 2)]


def test_ctrl_c_leaves_all_sizes_counted_to_the_same_request(tmp_path: Path) -> None:
    requests = [(GET, b"one", 5)] * 50_000
    calls = 0

    def interrupt(_done: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with opened(written(tmp_path / "trace", requests)) as trace:
        found = survey(trace, VALUE_BYTES, silent)
        sizes: Sizes = choose(found, [MIB, 2 * MIB], None)
        done = replay(trace, found, sizes, interrupt)
    assert done.interrupted
    assert 0 < done.requests == done.gets < len(requests)
    assert [row.hits for row in done.rows] == [done.gets - 1] * 2
