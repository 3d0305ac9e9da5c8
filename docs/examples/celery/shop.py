"""A shop's reports as Celery tasks: results in kvserve, and what all workers need computed once.

SHOP=plain keeps results in Redis, too, which is the broker, and computes everything anew.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from celery import Celery, chord, group

import kvserve

DIRECTORY = Path(os.environ.get("SHOP_DIRECTORY", ".")).absolute()
PLAIN = os.environ.get("SHOP") == "plain"

app = Celery("shop", broker=os.environ.get("SHOP_BROKER", "redis://localhost:6379"))
if PLAIN:
    app.conf.result_backend = app.conf.broker_url
else:  # the server is started by the first result
    app.conf.result_backend = "kvserve.integrations.celery.KvserveBackend://?start=true&timeout=10"

cache = kvserve.connect(start=True, timeout=10)  # nothing is asked or started before the first task


def best_sellers(shelf: int) -> list[list[int]]:
    """The best-selling articles of a shelf: a query of some milliseconds."""
    with sqlite3.connect(DIRECTORY / "sales.db") as database:
        rows = database.execute(
            "SELECT article, sum(pieces) FROM sales WHERE shelf = ? GROUP BY article "
            "ORDER BY 2 DESC LIMIT 10",
            (shelf,),
        ).fetchall()
    database.close()
    return [list(row) for row in rows]


if not PLAIN:
    best_sellers = cache.memoize(ttl=60)(best_sellers)


@app.task
def count_pieces(shelf: int) -> int:
    return sum(pieces for _, pieces in best_sellers(shelf))


@app.task
def add_up(counts: list[int]) -> int:
    return sum(counts)


def report(shelves: list[int]):
    """Counts all shelves at once, and adds up when the last one is counted: a chord."""
    return chord(group(count_pieces.s(shelf) for shelf in shelves))(add_up.s())
