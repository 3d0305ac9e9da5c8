"""The trusted writer that is made before its server."""

from __future__ import annotations

from kvserve.client.absent.kinds import Kind
from kvserve.client.blocking.attended import AttendedClient
from kvserve.client.blocking.direct import DirectClient


class AttendedDirectClient(AttendedClient, DirectClient):
    """A trusted writer that is made before its server; made by `kvserve.connect`.

    Each change goes straight into the table while there is a slot; `_join_writers` is the way to
    one, and so to a server.
    """

    def _join_writers(self) -> None:
        self._attended(Kind.WRITE, None, super()._join_writers)
