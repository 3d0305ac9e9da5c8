"""The asyncio trusted writer that is made before its server."""

from __future__ import annotations

from kvserve.client.aio.attended import AttendedAsyncClient
from kvserve.client.aio.direct import AsyncDirectClient


class AttendedAsyncDirectClient(AttendedAsyncClient, AsyncDirectClient):
    """A trusted writer that is made before its server; made by `kvserve.async_client`."""
