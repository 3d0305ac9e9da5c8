"""The application of `application.py` as a Celery task, and a program that has it executed.

The worker runs `app`. Run as a program, this module is the caller: it has the worker answer what
comes from standard input. The variable VALKEY_SOCKET leads both to a Valkey server.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from celery import Celery

from support.application import answer
from support.services import ASK_SECONDS, Answer, answer_lines

CALLERS = 6
VALKEY = f"redis+socket://{os.environ['VALKEY_SOCKET']}"

app = Celery("service", broker=VALKEY, backend=VALKEY)


@app.task(name="work")
def work(path: str) -> Answer:
    """Answers a path, in a worker."""
    return answer(path)


def ask(path: str) -> Answer:
    """Has a worker answer."""
    status, text = work.delay(path).get(timeout=ASK_SECONDS)
    return status, text


if __name__ == "__main__":
    with ThreadPoolExecutor(CALLERS) as callers:
        answer_lines(lambda path: callers.submit(ask, path))
