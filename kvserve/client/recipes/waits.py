"""Detects factories that wait for each other: each claim says which key its holder waits for.

A factory may ask for another value, and wait for the caller that computes it. While it does, each
claim that its own caller holds says, beside the token, for which key. So a waiting caller can
follow the chain from claim to claim, over threads, tasks and processes. If the chain ends at a
claim of its own, all would wait for ever; as no value can ever be computed, each gets an error.

What is read may be a moment old, so only a ring that is seen twice in a row counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kvserve.client.calls.operations import Key
from kvserve.client.recipes import key_layout
from kvserve.client.recipes.claims import Claim
from kvserve.client.recipes.driver import Driver
from kvserve.errors import KvserveError, MisuseError, ServerError

_LOOK_SECONDS_FIRST = 0.05  # most waits are over by then, and have cost nothing
_LOOK_SECONDS_LAST = 1.0
_HOPS_MAX = 100  # of a chain; a longer one is not followed to its end


class Waiting:
    """One wait for the value of a key, by a caller that holds claims.

    Args:
        driver: the client's.
        key: the key that is waited for.
        claims: those of the values that the caller is computing, by their keys.
    """

    def __init__(self, driver: Driver, key: Key, claims: Sequence[tuple[Key, Claim]]) -> None:
        self._driver = driver
        self._key = key
        self._claims = claims
        self._waited = 0.0
        self._next_look = _LOOK_SECONDS_FIRST
        self._ring: list[Key] = []

    async def look(self, pause: float) -> None:
        """Looks for a ring; called after each pause, of so many seconds.

        Raises:
            MisuseError: the caller that is waited for waits for this one.
        """
        self._waited += pause
        if not self._claims or self._waited < self._next_look:
            return
        self._next_look = self._waited + min(self._waited, _LOOK_SECONDS_LAST)
        for _, claim in self._claims:
            if claim.waits_for != self._key:
                claim.waits_for = self._key
                await self._say(claim)
        ring = await self._chain()
        if ring and ring == self._ring:
            raise MisuseError(
                "these values are computed from each other, and none can ever be had: "
                f"{' needs '.join(map(repr, ring))}"
            )
        self._ring = ring

    async def end(self) -> None:
        """The wait is over."""
        for _, claim in self._claims:
            if claim.waits_for is not None:
                claim.waits_for = None
                await self._say(claim)

    def forget(self) -> None:
        """As `end`, after an exception: the next renewal writes it, if there is one."""
        for _, claim in self._claims:
            claim.waits_for = None

    async def _say(self, claim: Claim) -> None:
        with suppress(ServerError):  # the next renewal writes it
            await self._driver.within(self._driver.timeout, claim.renew, self._driver)

    async def _chain(self) -> list[Key]:
        """The keys of a ring, from one of ours back to it; an empty list if there is none."""
        ours = {_as_bytes(key): key for key, _ in self._claims}
        chain: list[Key] = [self._key]
        for _ in range(_HOPS_MAX):
            try:
                claim = await self._driver.get(key_layout.flight_key(chain[-1]))
            except KvserveError:
                return []
            needed = _waited_for(claim)
            if needed is None:
                return []
            if _as_bytes(needed) in ours:
                return [needed, *chain, needed]
            chain.append(needed)
        return []


def _waited_for(claim: Any) -> Key | None:
    """The key that the holder of a claim waits for, given the claim's value."""
    if isinstance(claim, (tuple, list)) and len(claim) == 2 and isinstance(claim[1], (str, bytes)):
        return claim[1]
    return None


def _as_bytes(key: Key) -> bytes:
    return key.encode() if isinstance(key, str) else key
