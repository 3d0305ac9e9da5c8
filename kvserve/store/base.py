"""What a store is: the contract between a worker and the database behind the cache.

It must not know which database that is, nor when it is asked: single flight, write-behind and the
circuit breaker are the worker's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, NamedTuple

from kvserve.errors import KvserveError, StoreUnavailable

Key = str | bytes


class StoreRefusal(StoreUnavailable):
    """The store answered, and said no. Nothing was changed; other calls may well succeed."""


class CallAgain(StoreUnavailable):
    """Nothing was done; a call that takes its time will know where to turn to."""


class Record(NamedTuple):
    """What a store keeps of a key.

    Args:
        key: as it was given; a str and its UTF-8 bytes are the same key.
        codec: a number of `kvserve.protocol.codec`.
        payload: as that codec encodes.
        expires_at_ms: Unix time in milliseconds; 0: never.
        stamp: what the store itself marks a write with; empty in a record that is to be stored.
    """

    key: Key
    codec: int
    payload: bytes
    expires_at_ms: int
    stamp: bytes = b""


class Store(ABC):
    """A database, used by one worker on its event loop, and opened after the fork.

    No call blocks the loop. Calls may overlap; what one call changes is in the database when it
    returns, and is seen by every call that begins later.

    Every method may raise:
        StoreUnavailable: the store does not answer in time, or refuses; nothing was changed.
        OutcomeUnknown: a write was sent and no answer came; it may have been done or not.
    """

    # Whether other hosts write there too, so that conditions must be decided there.
    is_shared: ClassVar[bool]
    # Whether no call takes longer than the limit that `tune` sets; else its caller sees to that.
    keeps_time: ClassVar[bool] = False
    # Whether `probe` finds out if a part works again; else a call of somebody's has to.
    can_probe: ClassVar[bool] = False

    @abstractmethod
    async def open(self) -> None:
        """Connects. To be called once, before everything else."""

    @abstractmethod
    async def load_many(self, keys: Sequence[Key]) -> list[Record | None]:
        """What is stored under each key, in their order; None where nothing is, or it expired."""

    @abstractmethod
    async def save_many(self, records: Sequence[Record]) -> None:
        """Stores the records, over what is there; the last wins where a key comes twice."""

    @abstractmethod
    async def delete_many(self, keys: Sequence[Key]) -> list[bool]:
        """Removes the keys, and says of each, in their order, whether it was there."""

    # Where keys are in several places, each of these answers for itself.

    def part(self, key: Key) -> Hashable:
        """The part of the database that has a key: it fails, or is slow, for itself."""
        del key
        return None

    async def probe(self, part: Hashable) -> None:
        """Finds out, quickly and without a key, whether a part works; raises StoreUnavailable."""
        raise StoreUnavailable(f"nothing tells whether the store at {part} works")

    def parts(self) -> dict[Hashable, dict[str, Any]]:
        """What an operator wants to know of each part, besides what its callers count."""
        return {}

    def load_at_once(self, key: Key, done: Callable[[Record | KvserveError | None], None]) -> bool:
        """As `load_each` for one key, by the shortest way: without a task, nor a turn of the loop.

        Args:
            key: what to load.
            done: is called with what became of it, once; `CallAgain` means: by `load_each`.

        Returns:
            Whether it was begun. If not, nothing was done: `load_each` is the way.
        """
        del key, done
        return False

    def save_at_once(self, record: Record, done: Callable[[KvserveError | None], None]) -> bool:
        """As `save_each` for one record, by the shortest way; see `load_at_once`."""
        del record, done
        return False

    async def load_each(self, keys: Sequence[Key]) -> Sequence[Record | KvserveError | None]:
        """As `load_many`, but one key's failure is its own outcome."""
        return await self.load_many(keys)

    async def save_each(self, records: Sequence[Record]) -> Sequence[KvserveError | None]:
        """As `save_many`, but one record's failure is its own outcome."""
        await self.save_many(records)
        return [None] * len(records)

    async def delete_each(self, keys: Sequence[Key]) -> Sequence[bool | KvserveError]:
        """As `delete_many`, but one key's failure is its own outcome."""
        return await self.delete_many(keys)

    def tune(self, timeout_seconds: float, staleness_seconds: float) -> None:
        """Takes new limits, from the next call on."""
        del timeout_seconds, staleness_seconds  # the caller's limit will do

    @abstractmethod
    async def flush(self) -> None:
        """Sends out what the store itself still buffers. Removes nothing."""

    @abstractmethod
    async def close(self) -> None:
        """Finishes what was begun and disconnects. A second call does nothing."""


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
        """Stores the record if the key still holds exactly `seen`, of that very write."""

    @abstractmethod
    async def compare_and_delete(self, seen: Record) -> bool:
        """Removes the key if it still holds exactly `seen`, of that very write."""

    @abstractmethod
    async def increment(
        self, key: Key, delta: int, initial: int | None, expires_at_ms: int
    ) -> Record | None:
        """Adds `delta` to a counter, and returns its new record.

        A counter that is not there begins at `initial + delta` and expires at `expires_at_ms`; if
        `initial` is None it is not made, and None is returned.

        Raises:
            NotACounter: what is there is something else.
            CounterOverflow: the sum would leave 64 bits.
        """

    @abstractmethod
    async def touch(self, key: Key, expires_at_ms: int) -> bool:
        """Lets the key expire at another time, 0: never; returns whether it was there."""

    @abstractmethod
    def follow(
        self,
        on_invalid: Callable[[Sequence[Key] | None], None],
        on_fresh: Callable[[int], None],
    ) -> None:
        """Starts to listen to what others change.

        Args:
            on_invalid: is told the keys that changed elsewhere; None: any may have.
            on_fresh: is told that everything changed so far was reported, so that what the table
                holds may be served until this moment, in monotonic milliseconds.
        """
