"""A small shop in FastAPI: pages that all processes share, and a sale that invalidates them.

SHOP=plain computes every page.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from fastapi import FastAPI

from kvserve.integrations.fastapi import CacheMiddleware, ResponseCache, cached

DIRECTORY = Path(os.environ.get("SHOP_DIRECTORY", "."))

pages = ResponseCache(start=True, status_header="X-Cache")  # the first write starts the server
app = FastAPI()
if os.environ.get("SHOP") != "plain":
    app.add_middleware(CacheMiddleware, cache=pages)


def database() -> sqlite3.Connection:
    return sqlite3.connect(DIRECTORY / "sales.db", timeout=10)


@app.get("/shelf/{shelf}", dependencies=[cached(60, tags=["shelf:{shelf}"])])
def show_shelf(shelf: int) -> list[list[int]]:
    """The best-selling articles of a shelf: a query of some milliseconds."""
    connection = database()
    rows = connection.execute(
        "SELECT article, sum(pieces) FROM sales WHERE shelf = ? GROUP BY article "
        "ORDER BY 2 DESC LIMIT 10",
        (shelf,),
    ).fetchall()
    connection.close()
    return [list(row) for row in rows]


@app.post("/shelf/{shelf}/sales/{article}")
async def sell(shelf: int, article: int, pieces: int = 1) -> dict[str, int]:
    """Writes a sale down; whoever asks for the shelf from now on, sees it."""
    connection = database()
    with connection:
        connection.execute("INSERT INTO sales VALUES (?, ?, ?)", (shelf, article, pieces))
    connection.close()
    await pages.invalidate_tag(f"shelf:{shelf}")
    return {"pieces": pieces}
