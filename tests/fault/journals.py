"""What the soak's clients write down outside kvserve as it happens, and how they find a server."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kvserve

KEYS = 30  # of each writer
ENTRY = struct.Struct("<IQ")  # the key's number, the value's number
PATIENCE_SECONDS = 30.0


class Journal:
    """What a writer began, or what was acknowledged; appended to, whole entries only."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, key: int, number: int) -> None:
        os.write(self._descriptor, ENTRY.pack(key, number))


def read_journal(path: Path) -> Iterator[tuple[int, int]]:
    """The entries of a journal, in order."""
    if path.exists():
        yield from ENTRY.iter_unpack(path.read_bytes())


def start_number(directory: Path, name: str) -> int:
    """Where a writer goes on that was killed."""
    return 1 + max((number for _, number in read_journal(directory / f"{name}.begun")), default=0)


@contextmanager
def connected(name: str, **options: Any) -> Iterator[kvserve.Client]:
    """A client, as soon as there is a server."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            cache = kvserve.connect(name, timeout=5, **options)
            break
        except kvserve.ServerError:
            assert time.monotonic() < give_up
            time.sleep(0.01)
    with cache:
        yield cache


async def connected_async(name: str) -> kvserve.AsyncClient:
    """An asyncio client, as soon as there is a server."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await kvserve.connect_async(name, timeout=5)
        except kvserve.ServerError:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.01)
