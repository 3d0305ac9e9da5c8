"""The application of `application.py` as a program with a pool of threads or processes."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait

from support.application import answer
from support.services import answer_lines

SIZE = 3


def pool(kind: str) -> Executor:
    """Of threads, or of processes that are started in the way of this name."""
    if kind == "threads":
        return ThreadPoolExecutor(SIZE)
    return ProcessPoolExecutor(SIZE, multiprocessing.get_context(kind))


def main(kind: str) -> None:
    """Answers until the input ends."""
    with pool(kind) as workers:
        # All at once, so that each worker is started now: one connects when it starts.
        wait([workers.submit(answer, "/read") for _ in range(SIZE)])
        answer_lines(lambda path: workers.submit(answer, path))


if __name__ == "__main__":
    main(sys.argv[1])
