"""Reading the table but for the keys that were lost, see lost.py: those are missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvserve.client.absent.outage import Outage
from kvserve.client.calls.operations import Key
from kvserve.client.calls.rules import Rules
from kvserve.client.follower import TableFollower
from kvserve.errors import UnreadableValue
from kvserve.table._core import AskWorker, check_keys


class ReaderOfTheRest(TableFollower):
    """A reader of an instance's table, without what was lost. `_outage` must be set first."""

    _outage: Outage
    _key_rules = Rules()

    def _fit_keys_by(self, rules: Rules) -> None:
        super()._fit_keys_by(rules)
        self._key_rules = rules

    def _has_lost(self, key: Key) -> bool:
        outage = self._outage
        return bool(outage.keys) and outage.has_lost(self._key_rules.key(key))

    def get(self, key: Key, default: Any = None) -> Any:
        """See `Client.get`."""
        if self._outage.error is None:  # then nothing is lost
            return super().get(key, default)
        return default if self._has_lost(key) else super().get(key, default)

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """See `Client.get_many`."""
        return super().get_many(self._rest(keys))

    def _get_many_here(self, keys: Iterable[Key]) -> tuple[dict[Key, Any], list[Key]]:
        return super()._get_many_here(self._rest(keys))

    def _rest(self, keys: Iterable[Key]) -> Iterable[Key]:
        if not self._outage.keys:
            return keys
        return [key for key in check_keys(keys) if not self._has_lost(key)]

    def _gets_here(self, key: Key) -> tuple[Any, int] | AskWorker | None:
        return None if self._has_lost(key) else super()._gets_here(key)

    def get_here(self, key: Key, default: Any = None) -> Any:
        """See `Client.get_here`."""
        try:
            return default if self._has_lost(key) else super().get_here(key, default)
        except UnreadableValue as error:
            self._outage.lose_read(error)
            return default

    def _record_here(self, key: Key) -> tuple[Any, int, int] | AskWorker | None:
        try:
            return None if self._has_lost(key) else super()._record_here(key)
        except UnreadableValue as error:
            self._outage.lose_read(error)
            return None

    def _ttl_ms(self, key: Key) -> int | AskWorker | None:
        return None if self._has_lost(key) else super()._ttl_ms(key)
