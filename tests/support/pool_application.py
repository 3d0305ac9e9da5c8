"""The application of `application.py` as a program with a pool of threads or processes."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from typing import Any

from support.application import answer
from support.services import answer_lines

SIZE = 3


def pool(kind: str) -> Executor:
    """Of threads, or of processes that are started in the way of this name.

    A worker begins when all have started: each connects when it starts, and so needs the server.
    """
    if kind == "threads":
        return ThreadPoolExecutor(SIZE, initializer=meet, initargs=[threading.Barrier(SIZE)])
    start = multiprocessing.get_context(kind)
    return ProcessPoolExecutor(SIZE, start, initializer=meet, initargs=[start.Barrier(SIZE)])


def meet(barrier: Any) -> None:
    """What each worker does first."""
    barrier.wait()


def main(kind: str) -> None:
    """Answers until the input ends."""
    with pool(kind) as workers:
        # As many tasks at once as workers: each task starts one, as long as none is idle.
        wait([workers.submit(answer, "/read") for _ in range(SIZE)])
        answer_lines(lambda path: workers.submit(answer, path))


if __name__ == "__main__":
    main(sys.argv[1])
