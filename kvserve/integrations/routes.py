"""What a route says about its response, and how it says it: the decorator `cached`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import from_thread
from starlette.requests import Request

if TYPE_CHECKING:
    from kvserve.integrations.responses import Before, ResponseCache

SCOPE_KEY = "kvserve.responses"  # where a route finds what the middleware wants to know
Tags = Sequence[str] | Callable[[Request], Sequence[str]]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class Marks:
    """What a route says about its response, and what its tags were before it was computed."""

    def __init__(self, cache: ResponseCache, tags: list[str]) -> None:
        self.ttl: float | None = None
        self.public = False
        self.tags = tags
        self.before: Before | None = None
        self._cache = cache

    async def begin(self) -> None:
        """Reads the tags. What invalidates one from now on, invalidates the response as well."""
        self.before = await self._cache.before(self.tags)


async def mark(request: Request, ttl: float | None, tags: Tags, public: bool) -> None:
    """Tells the middleware about the response to a request; without a middleware, nobody."""
    marks = request.scope.get(SCOPE_KEY)
    if marks is not None:
        marks.ttl, marks.public = ttl, public
        given = tags(request) if callable(tags) else tags
        marks.tags += [tag.format_map(request.path_params) for tag in given]
        await marks.begin()


def cached(
    ttl: float | None = None, *, tags: Tags = (), public: bool = False
) -> Callable[[Endpoint], Endpoint]:
    """Decorates a route's function, whose responses `CacheMiddleware` then keeps.

    Args:
        ttl: seconds; None: as the response's Cache-Control says, else the `default_ttl`.
        tags: to invalidate the responses by; `{name}` stands for a parameter of the path. Or a
            function that makes them of the request. At most 14.
        public: the response is the same for all users, also for those with cookies or a login.

    Example:
        >>> @cached(60, tags=["item:{item}"])
        ... async def show(request):
        ...     return JSONResponse({"item": request.path_params["item"]})
    """

    def decorate(function: Endpoint) -> Endpoint:
        async def note(*args: Any) -> None:
            for each in args:
                if isinstance(each, Request):
                    await mark(each, ttl, tags, public)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call(*args: Any, **kwargs: Any) -> Any:
                await note(*args, *kwargs.values())
                return await function(*args, **kwargs)

            return call  # type: ignore[return-value]

        @functools.wraps(function)
        def call_blocking(*args: Any, **kwargs: Any) -> Any:
            from_thread.run(note, *args, *kwargs.values())  # Starlette runs it in a thread
            return function(*args, **kwargs)

        return call_blocking  # type: ignore[return-value]

    return decorate
