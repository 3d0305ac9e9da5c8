"""The application of `application.py` as a Celery task, with queues in a directory; its caller.

The worker runs `app`. Run as a program, this module is the caller: it has the worker answer what
comes from standard input.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from celery import Celery

from support.application import answer
from support.services import ASK_SECONDS, Answer, answer_lines

CALLERS = 6
POLL_SECONDS = 0.01

directory = Path("broker").resolve()
for folder in ("queue", "control", "results"):
    (directory / folder).mkdir(parents=True, exist_ok=True)
app = Celery("service", broker="filesystem://", backend=f"file://{directory / 'results'}")
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(directory / "queue"),
        "data_folder_out": str(directory / "queue"),
        "control_folder": str(directory / "control"),
        "polling_interval": POLL_SECONDS,
    },
    worker_prefetch_multiplier=1,
)


@app.task(name="work")
def work(path: str) -> Answer:
    """Answers a path, in a worker."""
    return answer(path)


def ask(path: str) -> Answer:
    """Has a worker answer."""
    status, text = work.delay(path).get(timeout=ASK_SECONDS, interval=POLL_SECONDS)
    return status, text


if __name__ == "__main__":
    with ThreadPoolExecutor(CALLERS) as callers:
        answer_lines(lambda path: callers.submit(ask, path))
