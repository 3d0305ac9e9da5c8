"""All ways at once on one server: what one writes, all others read, at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from support import ways
from support.servers import Server


@pytest.fixture(scope="module")
def clients(served: Server) -> Iterator[dict[str, Any]]:
    """A client by every way, all of one server."""
    with ExitStack() as stack:
        found = {}
        for way in ways.SERVED:
            found[way] = ways.connect(way, served.name)
            stack.callback(found[way].close)
        yield found


@pytest.mark.parametrize("writer", ways.SERVED)
@pytest.mark.parametrize("reader", ways.SERVED)
def test_acknowledged_write_is_seen_by_everybody(
    clients: dict[str, Any], writer: str, reader: str, key: str
) -> None:
    version = clients[writer].set(key, [writer, 1])
    assert clients[reader].gets(key) == ([writer, 1], version)
    assert clients[writer].incr(f"{key} counter") == 1
    assert clients[reader].incr(f"{key} counter") == 2
    assert clients[writer].get(f"{key} counter") == 2
    assert clients[reader].cas(key, "theirs", version) is True
    assert clients[writer].cas(key, "ours", version) is False
    assert clients[writer].get(key) == "theirs"
    assert clients[writer].delete(key) is True
    assert clients[reader].get(key) is None


@pytest.mark.parametrize("way", ways.SERVED)
def test_flush_by_one_is_a_flush_for_all(clients: dict[str, Any], way: str, key: str) -> None:
    for each in ways.SERVED:
        clients[each].set(f"{key} {each}", 1)
    clients[way].flush()
    for each in ways.SERVED:
        assert list(clients[each].scan()) == []
        assert clients[each].get(f"{key} {each}") is None


@pytest.mark.parametrize("way", ways.SERVED)
def test_the_table_is_whole(clients: dict[str, Any], way: str) -> None:
    clients[way].set_many({f"key {number}": bytes(number) for number in range(1000)})
    assert clients[way].verify() == []
