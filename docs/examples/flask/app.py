"""A small shop in Flask: pages kept by Flask-Caching, carts by Flask-Session, both in kvserve.

SHOP=plain computes every page, and keeps the carts in files.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from cachelib.file import FileSystemCache
from flask import Flask, session
from flask_caching import Cache
from flask_session import Session

from kvserve.integrations.cachelib import KvserveCache

DIRECTORY = Path(os.environ.get("SHOP_DIRECTORY", "."))

app = Flask(__name__)
if os.environ.get("SHOP") == "plain":
    app.config["CACHE_TYPE"] = "NullCache"
    app.config["CACHE_NO_NULL_WARNING"] = True
    carts: Any = FileSystemCache(str(DIRECTORY / "carts"))
else:
    app.config["CACHE_TYPE"] = "kvserve.integrations.flask_caching.KvserveCache"
    app.config["CACHE_OPTIONS"] = {"start": True}  # the first write starts the server
    carts = KvserveCache(namespace="carts", start=True)
app.config |= {"SESSION_TYPE": "cachelib", "SESSION_CACHELIB": carts}

cache = Cache(app)
Session(app)


@app.get("/shelf/<int:shelf>")
@cache.cached(timeout=60)
def show_shelf(shelf: int) -> list[list[int]]:
    """The best-selling articles of a shelf."""
    with sqlite3.connect(DIRECTORY / "sales.db") as database:
        rows = database.execute(
            "SELECT article, sum(pieces) FROM sales WHERE shelf = ? GROUP BY article "
            "ORDER BY 2 DESC LIMIT 10",
            (shelf,),
        ).fetchall()
    database.close()
    return [list(row) for row in rows]


@app.get("/cart")
def show_cart() -> dict[str, int]:
    cart: dict[str, int] = session.get("cart", {})
    return cart


@app.post("/cart/<int:article>")
def add_to_cart(article: int) -> dict[str, int]:
    cart = session.setdefault("cart", {})
    cart[str(article)] = cart.get(str(article), 0) + 1
    session.modified = True
    return dict(cart)
