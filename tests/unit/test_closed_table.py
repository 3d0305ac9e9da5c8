"""A table that was closed, by another thread it may be, says so and touches no memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from kvserve.errors import ClientClosed, InternalError
from kvserve.protocol import codec
from kvserve.table.geometry import plan
from kvserve.table.table import PrivateTable

GEOMETRY = plan(2**20, 32, 1024, 1, 1)


def set_store_mark(table: PrivateTable) -> None:
    table.store_mark = 1


CALLS: dict[str, Callable[[PrivateTable], object]] = {
    "read": lambda table: table.read(b"key"),
    "ttl_ms": lambda table: table.ttl_ms(b"key"),
    "scan": lambda table: table.scan(0, 0, b""),
    "set": lambda table: table.set(b"key", codec.BYTES, b"value", 0),
    "incr": lambda table: table.incr(b"key", 1, 0, 0),
    "touch": lambda table: table.touch(b"key", 1),
    "delete": lambda table: table.delete(b"key"),
    "withdraw": lambda table: table.withdraw(b"key"),
    "flush": lambda table: table.flush(0),
    "sweep": lambda table: table.sweep(0, 0, 1),
    "verify": lambda table: table.verify(0),
    "recover": lambda table: table.recover(),
    "shard_stats": lambda table: table.shard_stats(0),
    "reads": lambda table: table.reads(),
    "instance_id": lambda table: table.instance_id(),
    "store_mark": lambda table: table.store_mark,
    "set_store_mark": set_store_mark,
    "set_read_policy": lambda table: table.set_read_policy(False, False, 1),
    "extend_freshness": lambda table: table.extend_freshness(0, 1),
    "retire": lambda table: table.retire(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_closed_table_says_so(call: Callable[[PrivateTable], object]) -> None:
    with closing(PrivateTable(GEOMETRY)) as table:
        table.set(b"key", codec.BYTES, b"value", 0)
    with pytest.raises((ClientClosed, InternalError), match=r"this table (was|is) closed"):
        call(table)
