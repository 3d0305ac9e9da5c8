"""A store as the worker calls it: single keys, a time limit, a circuit breaker, and counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from kvserve import limits
from kvserve.errors import KvserveError, MisuseError, OutcomeUnknown, StoreUnavailable
from kvserve.store.base import Key, Record, SharedStore, Store
from kvserve.store.breaker import Breaker
from kvserve.store.turns import Turn
from kvserve.store.window import LoadSizes, Window, key_bytes, record_bytes

Answer = TypeVar("Answer")
_GRACE = 1.1


class GuardedStore:
    """One worker's store.

    Args:
        store: the database, not opened yet.
        loop: the worker's.
        timeout_seconds: how long a call may take.
        value_bytes_max: the largest value.
        call_bytes_max: what loads, and what writes, may have under way; see `resize`.
    """

    def __init__(
        self,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        timeout_seconds: float,
        value_bytes_max: int = limits.VALUE_BYTES_DEFAULT,
        call_bytes_max: int = limits.FRAME_BYTES_MIN,  # of the smallest table
    ) -> None:
        self._store = store
        self._breaker = Breaker(time.monotonic)
        self._timeout_seconds = timeout_seconds
        self._calls = dict.fromkeys(("load", "save", "delete", "change"), 0)
        self._seconds = dict.fromkeys(self._calls, 0.0)
        self._is_open = asyncio.Event()
        self._why_closed = ""  # the last attempt to open it failed
        self._failures = 0
        self._refused = 0
        self._load_hits = 0
        self._load_sizes = LoadSizes(value_bytes_max)
        loads = Window(call_bytes_max, self._load_sizes.size_of)
        saves, deletes = Window(call_bytes_max, record_bytes), Window(call_bytes_max, key_bytes)
        self._windows = (loads, saves, deletes)
        self.load: Callable[[Key], asyncio.Future[Record | None]] = Turn(
            loop, self.load_many, loads, self._patience_seconds
        )
        self.save: Callable[[Record], asyncio.Future[None]] = Turn(
            loop, self._save_turn, saves, self._patience_seconds
        )
        self.delete: Callable[[Key], asyncio.Future[bool]] = Turn(
            loop, self.delete_many, deletes, self._patience_seconds
        )

    def _patience_seconds(self) -> float:
        return self._timeout_seconds

    @property
    def load_bytes(self) -> int:
        """About what one load brings, in bytes."""
        return self._load_sizes.expected_bytes

    def resize(self, call_bytes_max: int) -> None:
        """Takes another bound of what may be under way, from the next call on."""
        for window in self._windows:
            window.bytes_max = call_bytes_max

    @property
    def call_bytes(self) -> int:
        """About the memory of what is under way now."""
        return sum(window.taken_bytes for window in self._windows)

    @property
    def is_shared(self) -> bool:
        """Whether other hosts write there, too."""
        return self._store.is_shared

    @property
    def shared(self) -> SharedStore:
        """The store, for what only a shared one can do; to be called through `change`."""
        assert isinstance(self._store, SharedStore)
        return self._store

    async def open(self) -> None:
        """Opens the store; until then, or until it has failed once, calls wait as they may."""
        try:
            await self._store.open()
        except KvserveError as error:
            self._why_closed = str(error)
            raise
        self._why_closed = ""
        self._is_open.set()

    def tune(self, timeout_seconds: float, staleness_seconds: float) -> None:
        """Takes new limits, from the next call on."""
        self._timeout_seconds = timeout_seconds
        self._store.tune(timeout_seconds, staleness_seconds)

    async def load_many(self, keys: Sequence[Key]) -> list[Record | None]:
        """See `Store.load_many`."""
        records = await self._call("load", len(keys), lambda: self._store.load_many(keys))
        self._load_hits += sum(record is not None for record in records)
        self._load_sizes.learn(records)
        return records

    async def save_many(self, records: Sequence[Record]) -> None:
        """See `Store.save_many`."""
        await self._call("save", len(records), lambda: self._store.save_many(records))

    async def _save_turn(self, records: Sequence[Record]) -> list[None]:
        await self.save_many(records)
        return [None] * len(records)

    async def delete_many(self, keys: Sequence[Key]) -> list[bool]:
        """See `Store.delete_many`."""
        return await self._call("delete", len(keys), lambda: self._store.delete_many(keys))

    async def change(self, call: Callable[[SharedStore], Awaitable[Answer]]) -> Answer:
        """Makes a conditional change that the shared store decides."""
        return await self._call("change", 1, lambda: call(self.shared))

    async def _call(self, kind: str, items: int, call: Callable[[], Awaitable[Answer]]) -> Answer:
        self._require_openable(items)
        if not self._breaker.may_try():
            self._refused += items
            raise _left_alone()
        started = time.monotonic()
        try:
            # The store keeps the limit, too, and knows better what was sent: let it speak first.
            async with asyncio.timeout(self._timeout_seconds * _GRACE):
                await self._is_open.wait()
                answer = await call()
        except MisuseError:  # an answer, though no pleasant one
            self._breaker.succeeded()
            raise
        except TimeoutError as error:
            self._fail(items)
            if isinstance(error, KvserveError):
                raise
            text = f"the store did not answer within {self._timeout_seconds:g} s"
            is_harmless = kind == "load" or not self._is_open.is_set()
            raise (StoreUnavailable if is_harmless else OutcomeUnknown)(text) from None
        except BaseException:
            self._fail(items)
            raise
        self._breaker.succeeded()
        self._calls[kind] += items
        self._seconds[kind] += time.monotonic() - started
        return answer

    def _require_openable(self, items: int) -> None:
        """Answers at once while the store cannot be opened, which is tried again and again."""
        if self._why_closed:
            self._failures += items
            raise StoreUnavailable(f"the store cannot be opened: {self._why_closed}")

    def _fail(self, items: int) -> None:
        self._failures += items
        self._breaker.failed()

    def check(self) -> None:
        """Raises StoreUnavailable if a call would be refused now."""
        self._require_openable(1)
        if self._breaker.refuses:
            self._refused += 1
            raise _left_alone()

    def stats(self) -> dict[str, Any]:
        """Counters, whose names are explained by `kvserve stats --help`."""
        return {
            "loads": self._calls["load"],
            "load_hits": self._load_hits,
            "load_seconds": round(self._seconds["load"], 6),
            "saves": self._calls["save"] + self._calls["change"],
            "save_seconds": round(self._seconds["save"] + self._seconds["change"], 6),
            "deletes": self._calls["delete"],
            "failures": self._failures,
            "refused": self._refused,
            "breaker": str(self._breaker.state),
            "breaker_openings": self._breaker.openings,
        }

    async def close(self) -> None:
        await self._store.close()


def _left_alone() -> StoreUnavailable:
    return StoreUnavailable("the store failed again and again; it is tried again soon")
