"""Finds out when a part of a store behind an open breaker works again, so that no caller has to.

A probe is cheap and has no side effect, so probes may overlap: the next one does not wait for one
that hangs, as probes do when packets are lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable

from kvserve.errors import StoreUnavailable
from kvserve.store.base import Store
from kvserve.store.breaker import Breaker

_log = logging.getLogger(__name__)
_INTERVAL_SECONDS = 0.125  # service must be back half a second after the store is
PROBE_SECONDS = 1.0  # a server that takes longer counts as down
PROBES_MAX = 5  # of one part, at the same time


class Probing:
    """The probes of one worker.

    Args:
        store: the store whose parts are probed.
        loop: the worker's.
    """

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop
        self._active: dict[Hashable, asyncio.Task[None]] = {}

    def start(self, part: Hashable, breaker: Breaker) -> None:
        """Probes a part until it answers, then closes its breaker."""
        if part not in self._active:
            _log.warning("the store%s is left alone: calls to it failed", _at(part))
            self._active[part] = self._loop.create_task(self._until_it_works(part, breaker))

    async def _until_it_works(self, part: Hashable, breaker: Breaker) -> None:
        probes: set[asyncio.Task[bool]] = set()
        try:
            while True:
                if len(probes) < PROBES_MAX:
                    probes.add(self._loop.create_task(self._probe(part)))
                began = self._loop.time()
                done, probes = await asyncio.wait(
                    probes, timeout=_INTERVAL_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                is_gone = part is not None and part not in self._store.parts()
                if is_gone or any(each.result() for each in done):
                    breaker.close()
                    _log.info("the store%s %s", _at(part), "is gone" if is_gone else "works again")
                    return
                await asyncio.sleep(max(0.0, began + _INTERVAL_SECONDS - self._loop.time()))
        finally:
            for each in probes:
                each.cancel()
            del self._active[part]

    async def _probe(self, part: Hashable) -> bool:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._store.probe(part)
        except (StoreUnavailable, TimeoutError):
            return False
        except Exception:  # without further probes the part's breaker would never close
            _log.exception("the store%s cannot be probed", _at(part))
            return False
        return True

    def close(self) -> None:
        """Ends all probes."""
        for task in self._active.values():
            task.cancel()


def _at(part: Hashable) -> str:
    return "" if part is None else f" at {part}"
