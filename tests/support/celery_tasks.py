"""A Celery application for the tests: results in kvserve, messages in a directory."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

PLACE = Path(os.environ["TEST_CELERY_DIRECTORY"])
for folder in ("queue", "control"):
    (PLACE / folder).mkdir(parents=True, exist_ok=True)

app = Celery("tests", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": str(PLACE / "queue"),
    "data_folder_out": str(PLACE / "queue"),
    "control_folder": str(PLACE / "control"),
    "polling_interval": 0.02,
}
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
