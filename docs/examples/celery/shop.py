"""A shop's reports as Celery tasks: results in kvserve, and what all workers need computed once.

SHOP=plain keeps results in files, and computes everything anew. The broker is a directory in both
cases, so that nothing else must be installed; take the one that you have.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from celery import Celery, chord, group

import kvserve

DIRECTORY = Path(os.environ.get("SHOP_DIRECTORY", ".")).absolute()
PLAIN = os.environ.get("SHOP") == "plain"
for folder in ("queue", "results"):
    (DIRECTORY / folder).mkdir(exist_ok=True)

app = Celery("shop", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": str(DIRECTORY / "queue"),
    "data_folder_out": str(DIRECTORY / "queue"),
    "store_processed": False,
    "control_folder": str(DIRECTORY / "control"),
    "polling_interval": 0.01,
}
if PLAIN:
    app.conf.result_backend = f"file://{DIRECTORY / 'results'}"
else:
    app.conf.result_backend = "kvserve.integrations.celery.KvserveBackend://?start=true"

cache = kvserve.connect(start=True)  # nothing is asked or started before the first task


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
