"""How do the kernel's means of communication compare, by message size, blocking and polling?

carriers/*.c measures what the kernel costs, without Python: it is compiled here and run once for
each cell and round. What Python adds is measured after it, a message there and back in one process.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks import report
from benchmarks.effort import Effort
from benchmarks.measuring import STDERR, Turn, alternate, loop_turn
from benchmarks.report import Report, Table

SOURCES = sorted((Path(__file__).parent / "carriers").glob("*.c"))
MEANS = {
    "pipe": "unnamed pipe",
    "fifo": "FIFO",
    "mqueue": "POSIX message queue",
    "sysv": "System V message queue",
    "unix": "Unix socket",
    "tcp": "TCP on loopback",
    "ring": "ring in shared memory",
    "direct": "read of shared memory",
}
SIZES = (16, 256, 4_096, 65_536, 2**20)
QUEUE_BYTES_MAX = 8_192  # of a message, as Linux is delivered: fs.mqueue.msgsize_max, kernel.msgmax
QUEUED = ("mqueue", "sysv")
WAYS = ("block", "poll")
TURN_SECONDS = {"quick": 0.02, "full": 0.2}
ROUNDS = 5


def measure(effort: Effort) -> Report:
    answer = Report()
    if shutil.which("cc") is None:
        answer.missing.append("no C compiler: apt-get install gcc libc6-dev")
        return answer
    cores = sorted(os.sched_getaffinity(0))
    pairs = {"same core": (cores[0], cores[0])}
    if len(cores) > 1:
        pairs["other core"] = (cores[0], cores[1])
    else:
        answer.missing.append("this process may use one core only: no figures for another one")
    with tempfile.TemporaryDirectory() as directory:
        program = compiled(directory)
        cells = list(itertools.product(MEANS, SIZES, WAYS, pairs))
        samples: dict[tuple[str, int, str, str], list[tuple[float, float, float]]] = {}
        rounds = itertools.product(range(ROUNDS), cells)
        total = ROUNDS * len(cells)
        for _, cell in track(rounds, "IPC", total, console=STDERR, transient=True):
            means, size, way, place = cell
            if means in QUEUED and size > QUEUE_BYTES_MAX:
                continue
            if means == "direct" and way == "block":  # there is nothing to wait for
                continue
            run = [program, means, str(size), way, *map(str, pairs[place])]
            samples.setdefault(cell, []).append(once(run, TURN_SECONDS[effort.name], directory))
    figures = {
        cell: [statistics.median(column) for column in zip(*rounds, strict=True)]
        for cell, rounds in samples.items()
    }
    _tabulate(figures, list(pairs), answer)
    answer.tables.append(_python(effort))
    answer.notes += [
        "a message queue takes no message over 8 KiB unless an administrator allows it",
        "polling on a shared core yields between two attempts: without it, whoever polls would "
        "keep the other from answering until its time slice ends",
        "a read of shared memory is no message: it is what is left when none is needed",
    ]
    return answer


def compiled(directory: str) -> str:
    """The measuring program."""
    program = f"{directory}/carriers"
    flags = ("-std=c11", "-O2", "-pthread", "-o", program)
    subprocess.run(["cc", *flags, *map(str, SOURCES), "-lrt"], check=True)
    return program


def once(run: list[str], seconds: float, directory: str) -> tuple[float, float, float]:
    """One round of one cell: p50 and p99 of a round trip in us, and messages a second."""
    program, means, size, way, *cores = run

    def printed(what: str) -> list[float]:
        command = [program, means, size, what, way, *cores, str(seconds)]
        done = subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True)
        return [float(word) for word in done.stdout.split()]

    p50_ns, p99_ns = printed("latency")
    (messages,) = printed("stream")
    return p50_ns / 1000, p99_ns / 1000, messages


def _tabulate(figures: dict[Any, list[float]], places: list[str], answer: Report) -> None:
    columns = ["", *(f"{size:,} B" for size in SIZES)]
    titles = {0: "round trip, p50 us", 1: "round trip, p99 us", 2: "messages a second, one way"}
    for (index, title), place, way in itertools.product(titles.items(), places, WAYS):
        rows: list[list[Any]] = []
        for means, name in MEANS.items():
            found = [figures.get((means, size, way, place)) for size in SIZES]
            if any(found):
                rows.append([name, *(cell and cell[index] for cell in found)])
        kind = {"block": "blocking", "poll": "polling"}[way]
        answer.tables.append(Table(f"{title}, {kind}, {place}", columns, rows))
    answer.data["cells"] = [
        {"means": MEANS[means], "bytes": size, "way": way, "place": place, "p50_us": p50,
         "p99_us": p99, "messages": messages}
        for (means, size, way, place), (p50, p99, messages) in figures.items()
    ]  # fmt: skip


def _python(effort: Effort) -> Table:
    """What Python's own calls cost: one message there and back, in one process, nobody woken."""
    message = b"x" * 256
    with ExitStack() as stack:
        turns: dict[str, Turn] = {}
        for name, there_and_back in _python_means(stack, message).items():

            def run(count: int, call: Callable[[], Any] = there_and_back) -> None:
                for _ in itertools.repeat(None, count):
                    call()

            turns[name] = loop_turn(run, effort.round_seconds)
        rounds = alternate(turns, effort.rounds, "Python")
    rows = [[name, rounds.median(name, "ns")] for name in turns]
    return Table("Python: 256 bytes sent and received in one process", ["", "ns"], rows)


def _python_means(stack: ExitStack, message: bytes) -> dict[str, Callable[[], Any]]:
    import posix_ipc

    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    stack.callback(os.close, writing)
    left, right = socket.socketpair()
    stack.enter_context(left)
    stack.enter_context(right)
    queue = posix_ipc.MessageQueue(
        None, posix_ipc.O_CREX, max_messages=2, max_message_size=len(message)
    )
    stack.callback(queue.close)
    queue.unlink()
    memory = memoryview(bytearray(len(message)))
    return {
        "pipe: os.write, os.read": lambda: (
            os.write(writing, message),
            os.read(reading, len(message)),
        ),
        "Unix socket: send, recv": lambda: (left.send(message), right.recv(len(message))),
        "POSIX message queue: posix_ipc": lambda: (queue.send(message), queue.receive()),
        "memory: bytes(memoryview)": lambda: bytes(memory),
    }


if __name__ == "__main__":
    report.main("ipc", measure)
