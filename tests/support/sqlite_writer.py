"""A process that saves to a SQLite store and writes down each change that was acknowledged.

`python -m sqlite_writer URL LOG NAME` runs until it is killed. Each of its tasks makes change 0, 1,
2 ... one after the other; `change` says what each of them is, for the writer and for its test.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import NamedTuple

import uvloop

from kvserve.protocol import codec
from kvserve.store.base import Record
from kvserve.store.sqlite.store import SqliteStore

TASKS = 8
KEYS = 7


class Change(NamedTuple):
    """What a task does: both keys get the same number, or are deleted."""

    keys: tuple[str, str]
    number: int | None


def change(name: str, task: int, step: int) -> Change:
    """A task's change; no other task has its keys."""
    key = f"{name}.{task}.{step % KEYS}"
    return Change((f"{key}.left", f"{key}.right"), None if step % 5 == 3 else step)


async def _write(store: SqliteStore, log: int, name: str, task: int) -> None:
    step = 0
    while True:
        keys, number = change(name, task, step)
        if number is None:
            await store.delete_many(keys)
        else:
            await store.save_many([Record(key, *codec.encode(number), 0) for key in keys])
        os.write(log, f"{task} {step}\n".encode())
        step += 1


async def _main(url: str, log_file: str, name: str) -> None:
    store = SqliteStore(url, 30.0)
    await store.open()
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    await asyncio.gather(*(_write(store, log, name, task) for task in range(TASKS)))


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
