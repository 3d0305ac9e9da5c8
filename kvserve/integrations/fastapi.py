"""Cached routes for FastAPI: `cached` as a dependency, with the middleware of `.starlette`."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request

from kvserve.integrations.routes import Tags, check_marks, mark
from kvserve.integrations.starlette import CacheMiddleware, ResponseCache, path_tag

__all__ = ["CacheMiddleware", "ResponseCache", "cached", "path_tag"]


def cached(ttl: float | None = None, *, tags: Tags = (), public: bool = False) -> Any:
    """A dependency: the responses of its route are kept, by `CacheMiddleware`.

    Arguments as for `kvserve.integrations.starlette.cached`. A hit answers before any dependency
    runs, so what checks who asks must be a middleware outside, or let the request carry cookies or
    an Authorization header, whose responses are not kept unless they are public.

    Example:
        >>> from fastapi import FastAPI
        >>> application = FastAPI()
        >>> @application.get("/items/{item}", dependencies=[cached(60, tags=["item:{item}"])])
        ... async def show(item: int):
        ...     return {"item": item}
    """

    check_marks(ttl, tags)

    async def note(request: Request) -> None:
        await mark(request, ttl, tags, public)

    return Depends(note)
