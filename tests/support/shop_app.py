"""A FastAPI application for several processes, cached; under uvicorn by the tests."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from kvserve.integrations.fastapi import CacheMiddleware, ResponseCache, cached

PLACE = Path(os.environ.get("TEST_SHOP_DIRECTORY", "."))
pages = ResponseCache(status_header="X-Cache", timeout=1.0)
app = FastAPI()
app.add_middleware(CacheMiddleware, cache=pages)


def note(text: str) -> None:
    """A line of a file that all processes write."""
    with (PLACE / "computed").open("a") as file:
        file.write(f"{text}\n")


@app.get("/items/{item}", dependencies=[cached(60, tags=["item:{item}", "items"])])
async def show(item: int, pause: float = 0) -> dict[str, Any]:
    note(f"item {item}")
    await asyncio.sleep(pause)
    return {"item": item, "by": os.getpid(), "price": (PLACE / "price").read_text()}


@app.put("/items/{item}")
async def change(item: int, price: str) -> dict[str, Any]:
    (PLACE / "price").write_text(price)
    await pages.invalidate_tag(f"item:{item}")
    return {"by": os.getpid()}


@app.get("/process")
async def process() -> int:
    return os.getpid()
