"""The one log: its lines, its patience with a reader that stands still, the workers' pipes."""

from __future__ import annotations

import itertools
import json
import os
import resource
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserve.parent import logs
from kvserve.parent.logs import LineSplitter, Log, OutputPipe, parse_line

NOON = 1_700_000_000.25
FILE_BYTES_MAX = 1 << 30  # nobody else's file comes near it


class Pipe:
    """A pipe whose both ends the test holds."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def read(self) -> str:
        """All that is in it."""
        parts = []
        while True:
            try:
                part = os.read(self.reader, 1 << 20)
            except BlockingIOError:
                break
            if not part:
                break
            parts.append(part)
        return b"".join(parts).decode()

    def close(self) -> None:
        for descriptor in (self.reader, self.writer):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def worker() -> Iterator[Pipe]:
    """A worker's output; an OutputPipe takes over its reading end."""
    pipe = Pipe()
    yield pipe
    pipe.reader = -1
    pipe.close()


def new_log(pipe: Pipe, level: str = "info", style: str = "text") -> Log:
    return Log(pipe.writer, level, style, clock=lambda: NOON)


def test_a_line_of_text(pipe: Pipe) -> None:
    new_log(pipe).write("warning", "too warm", "worker 3", 77)
    assert pipe.read() == "2023-11-14T22:13:20.250Z warning worker 3[77]: too warm\n"


def test_a_line_of_json(pipe: Pipe) -> None:
    new_log(pipe, style="json").write("error", 'a "bad"\nday', "worker 0", 5)
    line = pipe.read()
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "error",
        "source": "worker 0",
        "pid": 5,
        "text": 'a "bad"\nday',
    }


def test_the_parents_own_lines_carry_its_pid(pipe: Pipe) -> None:
    new_log(pipe).info("hello")
    assert f" info parent[{os.getpid()}]: hello\n" in pipe.read()


def test_lines_below_the_level_are_not_written(pipe: Pipe) -> None:
    log = new_log(pipe, level="warning")
    log.debug("1")
    log.info("2")
    log.warning("3")
    log.error("4")
    log.level = "debug"
    log.debug("5")
    assert [line[-1] for line in pipe.read().splitlines()] == ["3", "4", "5"]


def test_text_cannot_forge_a_second_line_or_move_the_cursor(pipe: Pipe) -> None:
    new_log(pipe).info("key\nerror parent[1]: \x1b[2J\x7f tab\tstays")
    assert pipe.read().endswith(": key\\x0aerror parent[1]: \\x1b[2J\\x7f tab\tstays\n")


def test_a_log_that_stands_still_neither_blocks_nor_grows_without_bound(pipe: Pipe) -> None:
    log = new_log(pipe)
    for number in range(20_000):
        log.info(f"line {number:05d} " + "x" * 50)
    assert len(log._pending) <= logs.PENDING_BYTES_MAX
    written = ""
    while not log.flush():
        written += pipe.read()
    written += pipe.read()
    lines = written.splitlines()
    lost = int(lines[-1].split()[3])
    assert lines[-1].endswith("lines were lost here, because the log did not take them")
    assert len(lines) - 1 + lost == 20_000
    numbers = [int(line.split()[4]) for line in lines[:-1]]
    assert numbers == list(range(20_000 - lost))  # what is there is whole, and in order


def test_a_log_whose_reader_went_away_is_given_up_quietly(pipe: Pipe) -> None:
    log = new_log(pipe)
    os.close(pipe.reader)
    pipe.reader = -1
    log.error("nobody hears this")
    assert log.flush()


def test_what_a_full_disk_did_not_take_is_counted(pipe: Pipe) -> None:
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123 (a descriptor is wanted)
        log = Log(full.fileno(), "info", "text", clock=lambda: NOON)
        for _ in range(5):
            log.info("lost")
        assert log.flush()  # nothing waits for a disk that is full
        os.dup2(pipe.writer, full.fileno())
        log.info("there is room again")
    lines = pipe.read().splitlines()
    assert [line.partition(": ")[2] for line in lines] == [
        "5 lines were lost here, because the log did not take them",
        "there is room again",
    ]


def test_a_line_that_a_full_disk_took_in_part_is_ended(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    room_bytes = 30
    with (tmp_path / "log").open("w+b", buffering=0) as file:
        file.seek(FILE_BYTES_MAX - room_bytes)
        log = Log(file.fileno(), "info", "text", clock=lambda: NOON)
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, hard))
        try:
            log.info("does not fit")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.info("fits")
        file.seek(FILE_BYTES_MAX - room_bytes)
        torn, told, last = file.read().decode().splitlines()
    assert len(torn) == room_bytes
    assert told.endswith(": 1 lines were lost here, because the log did not take them")
    assert last.endswith(": fits")


def test_each_lost_line_is_told_once(pipe: Pipe) -> None:
    log = new_log(pipe)
    written = ""
    for number in range(20_000):
        log.info("x" * 100)
        if number % 7000 == 6999:  # it moves on, and stands still again
            while not log.flush():
                written += pipe.read()
    while not log.flush():
        written += pipe.read()
    lines = (written + pipe.read()).splitlines()
    lost = [int(line.split()[3]) for line in lines if "were lost here" in line]
    assert len(lost) > 1
    assert len(lines) - len(lost) + sum(lost) == 20_000


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"plain", ("info", "plain")),
        (b"<0>emergency", ("error", "emergency")),
        (b"<3>error", ("error", "error")),
        (b"<4>warning", ("warning", "warning")),
        (b"<5>notice", ("info", "notice")),
        (b"<6>info", ("info", "info")),
        (b"<7>debug", ("debug", "debug")),
        (b"<8>no prefix", ("info", "<8>no prefix")),
        (b" <3>no prefix", ("info", " <3>no prefix")),
        (b"<3", ("info", "<3")),
        (b"\xff\xfe", ("info", "\\xff\\xfe")),
        (b"dos\r", ("info", "dos")),
    ],
)
def test_prefixes(line: bytes, expected: tuple[str, str]) -> None:
    assert parse_line(line, "info") == expected


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10), st.integers(1, 50))
def test_lines_do_not_depend_on_how_the_stream_was_cut(
    stream: bytes, cuts: list[int], line_bytes_max: int
) -> None:
    whole = LineSplitter(line_bytes_max)
    expected = whole.feed(stream) + whole.finish()
    splitter = LineSplitter(line_bytes_max)
    places = [0, *sorted(cuts), len(stream)]
    lines = []
    for start, end in itertools.pairwise(places):
        lines += splitter.feed(stream[start:end])
    assert lines + splitter.finish() == expected
    pieces = stream.split(b"\n")
    kept = pieces if pieces[-1] else pieces[:-1]
    assert [line[:line_bytes_max] for line in lines + splitter.finish()] == [
        piece[:line_bytes_max] for piece in kept[: len(lines)]
    ]


def test_an_overlong_line_is_cut_and_says_so() -> None:
    splitter = LineSplitter(4)
    assert splitter.feed(b"12345678\n1234\n") == [b"1234 [cut, 4 bytes more]", b"1234"]


def test_an_overlong_line_takes_no_memory_beyond_the_bound() -> None:
    splitter = LineSplitter(10)
    for _ in range(1000):
        splitter.feed(b"x" * 1000)
    assert splitter.finish() == [b"x" * 10 + b" [cut, 999990 bytes more]"]


def test_a_workers_lines_reach_the_log(pipe: Pipe, worker: Pipe) -> None:
    output = OutputPipe(worker.reader, new_log(pipe, "debug"), "worker 1", 9, "warning")
    os.write(worker.writer, b"<7>first\nsec")
    assert output.pump()
    assert pipe.read().endswith(" debug worker 1[9]: first\n")
    os.write(worker.writer, b"ond\n\n")
    assert output.pump()
    assert pipe.read().endswith(" warning worker 1[9]: second\n")
    assert output.pump()  # nothing there: no end of the file, no waiting
    output.close()


def test_the_end_of_a_pipe_is_seen(pipe: Pipe, worker: Pipe) -> None:
    output = OutputPipe(worker.reader, new_log(pipe), "worker 1", 9, "info")
    os.close(worker.writer)
    worker.writer = -1
    assert not output.pump()
    output.close()


def test_what_a_worker_printed_before_it_died_is_not_lost(pipe: Pipe, worker: Pipe) -> None:
    output = OutputPipe(worker.reader, new_log(pipe), "worker 1", 9, "info")
    os.write(worker.writer, b"a line\n" * 1000 + b"last words")
    os.close(worker.writer)
    worker.writer = -1
    output.drain()
    lines = pipe.read().splitlines()
    assert len(lines) == 1001
    assert lines[-1].endswith(": last words")
    output.close()


def test_draining_does_not_wait_for_a_stranger_who_holds_the_pipe(pipe: Pipe, worker: Pipe) -> None:
    output = OutputPipe(worker.reader, new_log(pipe), "worker 1", 9, "info")
    os.write(worker.writer, b"words")  # and the writing end stays open
    output.drain()
    assert pipe.read().endswith(": words\n")
    output.close()


def test_one_turn_reads_at_most_a_pipe_full(pipe: Pipe, worker: Pipe) -> None:
    os.set_blocking(worker.writer, False)
    written = 0
    while select.select([], [worker.writer], [], 0)[1]:
        written += os.write(worker.writer, b"y" * 4095 + b"\n")
    output = OutputPipe(worker.reader, new_log(pipe, "error"), "worker 1", 9, "info")
    turns = 0
    while select.select([worker.reader], [], [], 0)[0]:
        output.pump()
        turns += 1
    assert turns == -(-written // logs._READ_BYTES)
    output.close()
