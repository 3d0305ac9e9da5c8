"""A reader's clock: neither a hit after an expiry nor a miss before it, whichever clock it asks."""

from __future__ import annotations

import time
from contextlib import closing

from kvserve.protocol import codec
from kvserve.table.geometry import plan
from kvserve.table.table import PrivateTable

KEYS = 300  # one expires each millisecond
GONE = object()


def boot_ms() -> int:
    """The clock of the expiries."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def test_a_key_is_read_until_its_expiry_and_not_beyond() -> None:
    with closing(PrivateTable(plan(2**20, 32, 1024, 1, 1))) as table:
        earliest, latest = {}, {}
        for number in range(KEYS):
            key = b"%d" % number
            earliest[key] = boot_ms() + 1 + number
            table.set(key, codec.BYTES, b"value", 1 + number)
            latest[key] = boot_ms() + 1 + number
        left = set(latest)
        while left:
            for key in sorted(left):
                before_ms = boot_ms()
                is_hit = table.get(key, GONE) is not GONE
                after_ms = boot_ms()
                if is_hit:
                    assert before_ms < latest[key], f"{key!r} outlived its expiry"
                else:
                    assert after_ms >= earliest[key], f"{key!r} was gone before its expiry"
                    left.remove(key)
