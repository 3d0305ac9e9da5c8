"""What a store is: the contract between a worker and the database behind the cache.

It must not know which database that is, nor when calls are made: single flight, write-behind and
the circuit breaker belong to the worker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, NamedTuple

from kvserve.errors import KvserveError, StoreUnavailable

Key = str | bytes
EXPIRY_KEPT = -1  # for a record that replaces another one: that one's expiry


class StoreRefusal(StoreUnavailable):
    """The store answered with a refusal. Nothing was changed; other calls may well succeed."""


class CallAgain(StoreUnavailable):
    """The short way did nothing; the regular call (`load_each`, `save_each`) must do it."""


class Record(NamedTuple):
    """What a store keeps of a key.

    Args:
        key: as the caller gave it; a str and its UTF-8 bytes are the same key.
        codec: a number of `kvserve.protocol.codec`.
        payload: the value, encoded by that codec. One that is to be stored may be compressed, and
            is stored plain.
        expires_at_ms: Unix time in milliseconds; 0: never. For `SharedStore.replace` and
            `compare_and_set` it may be EXPIRY_KEPT.
        stamp: the store's own mark of this write; empty in a record that is to be stored.
    """

    key: Key
    codec: int
    payload: bytes
    expires_at_ms: int
    stamp: bytes = b""


class Store(ABC):
    """A database that one worker uses on its event loop and opens after the fork.

    No call blocks the loop. Calls may overlap. A change is in the database when its call returns,
    and every call that begins later sees it.

    Every method may raise:
        StoreUnavailable: the store does not answer in time, or refuses; nothing was changed.
        OutcomeUnknown: a write was sent and no reply came; it may have been executed.
    """

    # Whether other hosts write there too, so that the store must decide conditions.
    is_shared: ClassVar[bool]
    # Whether the store itself ends calls at the limit that `tune` sets; if not, the caller must.
    keeps_time: ClassVar[bool] = False
    # Whether `probe` finds out if a part works again; if not, a caller's own call has to.
    can_probe: ClassVar[bool] = False

    @abstractmethod
    async def open(self) -> None:
        """Connects. Call it once, before any other method."""

    @abstractmethod
    async def load_many(self, keys: Sequence[Key]) -> list[Record | None]:
        """The record of each key, in the order of the keys; None if it is missing or expired."""

    @abstractmethod
    async def save_many(self, records: Sequence[Record]) -> None:
        """Stores the records and overwrites old ones; if a key comes twice, the last wins."""

    @abstractmethod
    async def delete_many(self, keys: Sequence[Key]) -> list[bool]:
        """Removes the keys; returns for each, in their order, whether it was there."""

    # A database may have several parts, such as the nodes of a cluster.

    def part(self, key: Key) -> Hashable:
        """The part of the database that has a key; parts fail, or are slow, independently."""
        del key
        return None

    async def probe(self, part: Hashable) -> None:
        """Finds out, quickly and without a key, whether a part works; raises StoreUnavailable."""
        raise StoreUnavailable(f"nothing says whether the store at {part} works")

    def parts(self) -> dict[Hashable, dict[str, Any]]:
        """Statistics of each part for an operator, besides those that its callers count."""
        return {}

    def load_at_once(self, key: Key, done: Callable[[Record | KvserveError | None], None]) -> bool:
        """As `load_each` for one key, but without a task or an extra turn of the loop.

        Args:
            key: what to load.
            done: is called once, with the outcome; `CallAgain` means: call `load_each`.

        Returns:
            Whether the load began. If not, nothing was done: call `load_each`.
        """
        del key, done
        return False

    def save_at_once(self, record: Record, done: Callable[[KvserveError | None], None]) -> bool:
        """As `save_each` for one record, with the terms of `load_at_once`."""
        del record, done
        return False

    async def load_each(self, keys: Sequence[Key]) -> Sequence[Record | KvserveError | None]:
        """As `load_many`, but a key that fails has its error as its outcome."""
        return await self.load_many(keys)

    async def save_each(self, records: Sequence[Record]) -> Sequence[KvserveError | None]:
        """As `save_many`, but a record that fails has its error as its outcome."""
        await self.save_many(records)
        return [None] * len(records)

    async def delete_each(self, keys: Sequence[Key]) -> Sequence[bool | KvserveError]:
        """As `delete_many`, but a key that fails has its error as its outcome."""
        return await self.delete_many(keys)

    def tune(self, timeout_seconds: float, staleness_seconds: float) -> None:
        """Takes new limits, from the next call on."""
        del timeout_seconds, staleness_seconds  # the caller's time limit is enough

    @abstractmethod
    async def flush(self) -> None:
        """Writes out what the store object itself still buffers. Removes nothing."""

    @abstractmethod
    async def close(self) -> None:
        """Finishes the calls that are under way and disconnects. A second call does nothing."""


class SharedStore(Store):
    """A store that other hosts write to: it decides conditions itself, atomically."""

    is_shared: ClassVar[bool] = True

    @abstractmethod
    async def add(self, record: Record) -> bool:
        """Stores the record if nothing is there under its key; returns whether it did."""

    @abstractmethod
    async def replace(self, record: Record) -> bool:
        """Stores the record if something is there under its key; returns whether it did."""

    @abstractmethod
    async def compare_and_set(self, seen: Record, record: Record) -> bool:
        """Stores the record if the key still holds `seen`, written by the same write."""

    @abstractmethod
    async def compare_and_delete(self, seen: Record) -> bool:
        """Removes the key if it still holds `seen`, written by the same write."""

    @abstractmethod
    async def increment(
        self, key: Key, delta: int, initial: int | None, expires_at_ms: int
    ) -> Record | None:
        """Adds `delta` to a counter, and returns its new record.

        A missing counter begins at `initial + delta` and expires at `expires_at_ms`; if `initial`
        is None, it is not created and the result is None.

        Raises:
            NotACounter: the key holds something else.
            CounterOverflow: the sum would leave 64 bits.
        """

    @abstractmethod
    async def touch(self, key: Key, expires_at_ms: int) -> bool:
        """Changes when the key expires, 0: never; returns whether the key was there."""

    @abstractmethod
    def follow(
        self,
        on_invalid: Callable[[Sequence[Key] | None], None],
        on_fresh: Callable[[int], None],
    ) -> None:
        """Starts to listen for changes that other hosts make.

        Args:
            on_invalid: is called with the keys that changed elsewhere; None: any key may have.
            on_fresh: is called when every change so far was reported, with the moment until which
                the table's values may be served, in monotonic milliseconds.
        """
