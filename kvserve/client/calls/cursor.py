"""The position of a scan, and what it does when the server was restarted meanwhile. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from kvserve.client.calls import globs
from kvserve.client.calls.call import Call
from kvserve.client.calls.operations import Key
from kvserve.errors import InvalidArgument
from kvserve.manifest import Manifest
from kvserve.protocol import commands


class Cursor:
    """A position in a table: a shard and a bucket of it. A table's successor is scanned anew.

    Args:
        prefix: what the keys must begin with.
        match: the pattern that they must match, see globs.py; None: any.
    """

    def __init__(self, prefix: Key, match: Key | None = None) -> None:
        if not isinstance(prefix, (str, bytes)):
            raise InvalidArgument(f"a prefix is str or bytes, not {type(prefix).__name__}")
        self._begin = prefix.encode() if isinstance(prefix, str) else prefix
        self._glob = None if match is None else globs.parse(match)
        # What the table is scanned for: the longer of two beginnings. `keep` looks at both.
        self.prefix = self._begin
        if self._glob is not None and len(self._glob.prefix) > len(self._begin):
            self.prefix = self._glob.prefix
        self.shard = self.bucket = 0
        self._instance_id: str | None = None

    def enter(self, manifest: Manifest) -> bool:
        """Takes the present manifest; returns whether there is anything left to scan."""
        if self.is_in_another(manifest):
            self.shard = self.bucket = 0
            self._instance_id = manifest.instance_id
        return self.shard < manifest.shards

    def is_in_another(self, manifest: Manifest) -> bool:
        """Whether the position is in another table than the manifest's."""
        return manifest.instance_id != self._instance_id

    def call(self) -> Call:
        """What to ask the worker that serves this position."""
        return Call(
            commands.SCAN, (self.shard, self.bucket, self.prefix), self.shard, idempotent=True
        )

    def keep(self, keys: Sequence[Key]) -> Sequence[Key]:
        """Those of the keys found here that match."""
        if self._glob is None:
            return keys
        is_match = self._glob.matches
        if self.prefix != self._begin:  # the pattern's
            begin = self._begin
            keys = [key for key in keys if raw_of(key).startswith(begin)]
        return [key for key in keys if is_match(key)]

    def move(self, next_bucket: int | None) -> None:
        """Goes on with this bucket, or with the next shard if there is none."""
        if next_bucket is None:
            self.shard += 1
        self.bucket = next_bucket or 0


def raw_of(key: Key) -> bytes:
    """The bytes of a key."""
    return key.encode() if isinstance(key, str) else key
