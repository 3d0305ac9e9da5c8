"""A Celery application for the tests: results in kvserve, messages in a Valkey."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

PLACE = Path(os.environ["TEST_CELERY_DIRECTORY"])

app = Celery("tests", broker=os.environ["TEST_CELERY_BROKER"])
app.conf.result_backend = "kvserve.integrations.celery.KvserveBackend://" + os.environ.get(
    "TEST_CELERY_OPTIONS", ""
)
app.conf.result_backend_always_retry = True
app.conf.worker_hijack_root_logger = False


@app.task
def add(first: int, second: int) -> int:
    return first + second


@app.task
def add_up(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def fail(text: str) -> None:
    raise ValueError(text)


@app.task
def my_process() -> int:
    return os.getpid()


@app.task(bind=True)
def halfway(task) -> str:  # type: ignore[no-untyped-def]
    task.update_state(state="HALFWAY", meta={"done": 50})
    while not (PLACE / "go on").exists():
        pass
    return "whole"
