"""A small shop as a WSGI application, for gunicorn: a catalogue that is slow to read, and carts.

`KVSERVE_SHOP=plain` asks the databases each time; `cached` asks kvserve first. The catalogue is
memoized; carts are kept in the store behind kvserve, SQLite or Valkey, as `serve --store` says.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

import kvserve

CACHED = os.environ["KVSERVE_SHOP"] == "cached"
CATALOGUE = os.environ["KVSERVE_CATALOGUE"]
CARTS = os.environ["KVSERVE_CARTS"]
Start = Callable[[str, list[tuple[str, str]]], object]

cache = kvserve.connect() if CACHED else None  # before the fork: each worker has its own session


def read_page(shelf: int) -> list[list[Any]]:
    """The best-selling articles of a shelf: a query of some milliseconds."""
    with sqlite3.connect(CATALOGUE) as database:
        rows = database.execute(
            "SELECT article, sum(pieces) FROM sales WHERE shelf = ? GROUP BY article "
            "ORDER BY 2 DESC LIMIT 10",
            (shelf,),
        )
        return [list(row) for row in rows]


def read_cart(user: str) -> dict[str, int]:
    if cache is not None:
        cart: dict[str, int] = cache.get(f"cart:{user}", {})
        return cart
    with sqlite3.connect(CARTS, timeout=10) as database:
        found = database.execute("SELECT cart FROM carts WHERE user = ?", (user,)).fetchone()
        return json.loads(found[0]) if found else {}


def write_cart(user: str, cart: dict[str, int]) -> None:
    if cache is not None:
        cache.set(f"cart:{user}", cart)
        return
    with sqlite3.connect(CARTS, timeout=10) as database:
        database.execute("INSERT OR REPLACE INTO carts VALUES (?, ?)", (user, json.dumps(cart)))


page = cache.memoize(ttl=60, stale=30)(read_page) if cache is not None else read_page


def application(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    """GET /shelf/N, GET /cart/USER, POST /cart/USER/ARTICLE."""
    match environ["REQUEST_METHOD"], *environ["PATH_INFO"].strip("/").split("/"):
        case "GET", "shelf", number:
            answer: Any = page(int(number))
        case "GET", "cart", user:
            answer = read_cart(user)
        case "POST", "cart", user, article:
            answer = read_cart(user)
            answer[article] = answer.get(article, 0) + 1
            write_cart(user, answer)
        case _:
            start("404 Not Found", [])
            return [b""]
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
