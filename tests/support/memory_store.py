"""A store in memory that is slow and fails when the test says so; it keeps what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kvserve.errors import StoreUnavailable
from kvserve.store.base import Key, Record, Store


class MemoryStore(Store):
    """A dictionary behind a pause.

    Args:
        pause_seconds: how long each call takes.
    """

    is_shared = False

    def __init__(self, pause_seconds: float = 0.0) -> None:
        self.records: dict[bytes, Record] = {}
        self.calls: list[tuple[str, int]] = []
        self.pause_seconds = pause_seconds
        self.is_broken = False
        self.closed = False

    async def _work(self, kind: str, items: int) -> None:
        self.calls.append((kind, items))
        await asyncio.sleep(self.pause_seconds)
        if self.is_broken:
            raise StoreUnavailable("the test broke it")

    async def open(self) -> None:
        """Nothing to connect to."""

    async def load_many(self, keys: Sequence[Key]) -> list[Record | None]:
        await self._work("load", len(keys))
        return [self.records.get(name_of(key)) for key in keys]

    async def save_many(self, records: Sequence[Record]) -> None:
        await self._work("save", len(records))
        self.records |= {name_of(record.key): record for record in records}

    async def delete_many(self, keys: Sequence[Key]) -> list[bool]:
        await self._work("delete", len(keys))
        return [self.records.pop(name_of(key), None) is not None for key in keys]

    async def flush(self) -> None:
        """Nothing is buffered."""

    async def close(self) -> None:
        self.closed = True


def name_of(key: Key) -> bytes:
    """What keys are compared by."""
    return key.encode() if isinstance(key, str) else key
