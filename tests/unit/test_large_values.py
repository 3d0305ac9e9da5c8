"""Values larger than what one operation copies at ease stay in the main log, if they are used."""

from __future__ import annotations

import random
from contextlib import closing

import pytest

from kvserve.protocol import codec
from kvserve.table.geometry import plan
from kvserve.table.table import PrivateTable

GEOMETRY = plan(16 * 2**20, 128, 2**20, 1, 1)
VALUE_BYTES = 300_000
USED = 15  # values that are read all the time: with what is overwritten, half of the main log
LAPS = 6


@pytest.mark.parametrize(
    ("value_bytes", "keys", "left_min"), [(VALUE_BYTES, 5, 13), (100, 20_000, 8)]
)
def test_what_is_read_all_the_time_outlives_overwrites(
    value_bytes: int, keys: int, left_min: int
) -> None:
    draws = random.Random(1)
    used = [b"used %d" % number for number in range(USED)]
    with closing(PrivateTable(GEOMETRY)) as table:
        for key in used:
            table.set(key, codec.BYTES, bytes(VALUE_BYTES), 0)
        for number in range(keys):
            table.set(b"%d" % number, codec.BYTES, bytes(value_bytes), 0)
        sets = LAPS * GEOMETRY.main_capacity // value_bytes
        for number in range(sets):
            table.set(b"%d" % draws.randrange(keys), codec.BYTES, bytes(value_bytes), 0)
            if number % (sets // 100) == 0:
                left = [key for key in used if table.read(key)]
        print(f"{len(left)} of {USED} are left")
        assert len(left) >= left_min
