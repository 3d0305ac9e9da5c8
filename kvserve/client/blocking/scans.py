"""All keys that begin with a prefix or match a pattern: found, and removed. The blocking kind."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from kvserve import limits
from kvserve.client.blocking.recipes import Recipes
from kvserve.client.calls.operations import Key


class Scans(Recipes):
    """Methods of the blocking client and its namespaces."""

    def _full_terms(self, prefix: Key, match: Key | None) -> tuple[Key, Key | None]:
        """What the client scans for, to find what a caller here asks for."""
        return prefix, match

    def delete_prefix(self, prefix: Key) -> int:
        """Removes all keys that begin with a prefix; returns how many.

        They are those that `scan` returns, so for the client also those in namespaces, and for an
        empty prefix all. A key that is stored meanwhile may be removed or not. With a store behind
        the cache, the keys that are in the cache are removed from both; those that only the store
        has stay there.

        Raises:
            ServerError: as `delete_many`; some of the keys are removed already.

        Example:
            >>> cache.set_many({"page:1": 1, "page:2": 2, "pages": 3})
            >>> cache.delete_prefix("page:")
            2
        """
        return self._delete_scanned(*self._full_terms(prefix, None))

    def delete_matching(self, match: Key) -> int:
        """Removes all keys that match a pattern; returns how many. Else as `delete_prefix`.

        Args:
            match: as for `scan`.

        Example:
            >>> cache.set_many({"user:1:cart": 1, "user:1:name": 2})
            >>> cache.delete_matching("user:*:cart")
            1
        """
        return self._delete_scanned(*self._full_terms("", match))

    def _delete_scanned(self, prefix: Key, match: Key | None) -> int:
        count = 0
        keys: Iterator[Key] = self._root.scan(prefix, match)
        while some := list(islice(keys, limits.DELETE_SCANNED_KEYS)):
            count += self._root.delete_many(some)
        return count
