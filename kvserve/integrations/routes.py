"""What a route says about its response, and how it says it: the decorator `cached`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import from_thread
from starlette.requests import Request

from kvserve.errors import InvalidArgument

if TYPE_CHECKING:
    from kvserve.integrations.places import Before
    from kvserve.integrations.responses import ResponseCache

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
        marks.tags += [_filled(tag, request) for tag in given]
        await marks.begin()


def check_marks(ttl: float | None, tags: Tags) -> None:
    """Raises InvalidArgument for what a route cannot say, when it is written and not when asked."""
    if callable(ttl):
        raise InvalidArgument("cached is written with parentheses: cached(60), or cached()")
    if ttl is not None and (
        isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not ttl >= 0
    ):
        raise InvalidArgument(f"cached({ttl!r}): use seconds, 0 or more, or None")
    if isinstance(tags, str) or not (callable(tags) or isinstance(tags, Sequence)):
        raise InvalidArgument(f"tags = {tags!r}: use a list of tags, or a function that makes one")


def _filled(tag: str, request: Request) -> str:
    """A tag with the values of the path's parameters."""
    try:
        return tag.format_map(request.path_params)
    except (LookupError, ValueError, AttributeError):
        known = ", ".join(sorted(request.path_params)) or "no parameters"
        raise InvalidArgument(
            f"the tag {tag!r} cannot be filled in; the path of {request.url.path} has {known}"
        ) from None


def cached(
    ttl: float | None = None, *, tags: Tags = (), public: bool = False
) -> Callable[[Endpoint], Endpoint]:
    """Decorates a route's function, whose responses `CacheMiddleware` then keeps.

    Args:
        ttl: seconds; None: as the response's Cache-Control says, else the `default_ttl`.
        tags: to invalidate the responses by; `{name}` stands for a parameter of the path. Or a
            function that makes them of the request. At most 14.
        public: the response is the same for all users, also for those with cookies or a login.

    Raises:
        InvalidArgument: an argument is wrong; at a request, if a tag names a parameter that the
            path does not have, or the function gets no Request.

    Example:
        >>> @cached(60, tags=["item:{item}"])
        ... async def show(request):
        ...     return JSONResponse({"item": request.path_params["item"]})
    """

    check_marks(ttl, tags)

    def decorate(function: Endpoint) -> Endpoint:
        async def note(*args: Any) -> None:
            requests = [each for each in args if isinstance(each, Request)]
            if not requests:
                raise InvalidArgument(
                    f"{function.__qualname__} was called without a Request, so that its response "
                    "cannot be cached; a route of FastAPI takes `cached` of "
                    "kvserve.integrations.fastapi among its dependencies"
                )
            await mark(requests[0], ttl, tags, public)

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
