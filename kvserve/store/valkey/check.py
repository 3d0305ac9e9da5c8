"""Finds out whether a store can be used, before any worker relies on it."""

from __future__ import annotations

import asyncio

from kvserve.errors import ConfigError, StoreUnavailable
from kvserve.store.valkey.address import Address, Node
from kvserve.store.valkey.link import Link, LinkLost
from kvserve.store.valkey.wire import Refused

_STATE_OK = b"cluster_state:ok"
_NO_LOGIN = ("WRONGPASS", "NOAUTH", "ERR AUTH", "ERR invalid password")


async def check(address: Address, timeout_seconds: float) -> None:
    """Connects to the store as the workers will.

    Raises:
        ConfigError: the URL, or the server it names, cannot be used.
        StoreUnavailable: no server answers.
    """
    failure: Exception | None = None
    for node in address.hosts:
        try:
            async with asyncio.timeout(timeout_seconds):
                await _check_node(node, address)
            return
        except TimeoutError:
            failure = StoreUnavailable(f"the store at {node} does not answer")
        except LinkLost as error:
            failure = StoreUnavailable(f"no store answers: {error}")
    assert failure is not None
    raise failure


async def _check_node(node: Node, address: Address) -> None:
    try:
        link = await Link.open(node, address, lambda _: None, lambda: None)
    except Refused as error:
        if str(error).startswith(_NO_LOGIN):
            raise ConfigError(
                f"the store at {node} refuses the URL's user and password: {error}"
            ) from None
        raise ConfigError(_too_old(node)) from None
    try:
        await _check_server(link, node, address)
    finally:
        link.close()


async def _check_server(link: Link, node: Node, address: Address) -> None:
    server = link.server
    is_cluster = server.get(b"mode") == b"cluster"
    if len(address.hosts) > 1 and not is_cluster:
        raise ConfigError(f"the store at {node} is no cluster; name it alone in the URL")
    if server.get(b"role") != b"master" and not is_cluster:
        raise ConfigError(f"the store at {node} is a replica; name its primary in the URL")
    try:
        await link.ask("SELECT", address.database)
        await link.track(address.prefix)
        if is_cluster and _STATE_OK not in bytes(await link.ask("CLUSTER", "INFO")).split():
            raise ConfigError(
                f"the cluster of {node} is not ready; see: valkey-cli --cluster check {node}"
            )
    except Refused as error:
        raise ConfigError(f"the store at {node} does not allow what is needed: {error}") from None


def _too_old(node: Node) -> str:
    return f"the server at {node} is no Valkey, and no Redis of version 6 or newer"
