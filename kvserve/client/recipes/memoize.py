"""memoize: a function whose results are kept in the cache, for all processes."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from kvserve.client.calls.operations import Key, Tags
from kvserve.client.recipes import key_layout
from kvserve.client.recipes.arguments import canonical_call
from kvserve.client.recipes.function_names import function_name
from kvserve.client.recipes.single_flight import Terms
from kvserve.client.recipes.tags import tag_keys
from kvserve.client.values import Values
from kvserve.errors import InvalidArgument
from kvserve.table._core import check_key

P = ParamSpec("P")
R = TypeVar("R")

_READABLE_BYTES_MAX = 256  # of a key; a longer one is hashed, which also leaves namespaces room


class Memoized(Protocol[P, R]):
    """A memoized function: like the original function, with three more attributes."""

    __wrapped__: Callable[P, R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The kept result of this call; on a miss it is computed, and kept."""

    def __get__(self, instance: Any, owner: type | None = None, /) -> Callable[..., R]:
        """It binds to objects as functions do."""

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """The key of this call's result."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Forgets a call's result; returns whether there was one. A coroutine if the function is.

        A computation that is under way then does not store its result.
        """


class CallKeys:
    """Makes the key of each call of a function.

    Args:
        function: the function that is called.
        key: makes the key from the call's arguments; None: from module, name and arguments.
        typed: whether 1 and 1.0 differ.

    Raises:
        InvalidArgument: the function has no name of its own, or is not a function yet.
    """

    def __init__(
        self, function: Callable[..., Any], key: Callable[..., Key] | None, *, typed: bool
    ) -> None:
        if isinstance(function, (classmethod, staticmethod, property)):
            kind = type(function).__name__
            raise InvalidArgument(f"memoize belongs below @{kind}, next to the function")
        if not callable(function):
            raise InvalidArgument(f"memoize: {function!r:.80} is no function")
        self._custom = key
        self._typed = typed
        if key is None:
            self._name = function_name(function)
            self._signature = _signature(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Key:
        """The key of a call.

        Raises:
            InvalidArgument: an argument cannot be part of a key.
            InvalidKey: `key=` made no key.
        """
        if self._custom is not None:
            key = self._custom(*args, **kwargs)
            check_key(key)
            return key
        arguments = canonical_call(self._signature, args, kwargs, typed=self._typed)
        whole = f"kvserve:memo:{self._name}({arguments})"
        if not _is_readable(whole):
            whole = f"kvserve:memo:{self._name}({key_layout.hashed(arguments.encode())})"
        if not _is_readable(whole):
            # A path may have bytes that are no UTF-8.
            raw = f"{self._name}({arguments})".encode(errors="surrogatepass")
            whole = f"kvserve:memo:{key_layout.hashed(raw)}"
        return whole


class TagsOfCalls:
    """The tags of the results of a memoized function.

    Args:
        path: the names of the namespaces around them.
        tags: their names; or what makes them from a call's arguments; or None.
    """

    def __init__(self, path: Sequence[str], tags: Tags | Callable[..., Tags] | None) -> None:
        self._path = path
        self._make = tags if callable(tags) else None
        self.of_all = tag_keys(path, () if tags is None or callable(tags) else tags)

    def in_terms(self, terms: Terms, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Terms:
        """The terms of all calls, as they are for this one."""
        make = self._make
        if make is None:
            return terms
        return terms._replace(tags=lambda: tag_keys(self._path, make(*args, **kwargs)))


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """How the function is called: if decorated, as its decorator is, which may add arguments."""
    is_python = inspect.isfunction(function) or inspect.ismethod(function)
    try:
        return inspect.signature(function, follow_wrapped=not is_python)
    except (TypeError, ValueError):
        raise InvalidArgument(
            f"memoize: {function!r:.80} does not say which arguments it takes; give key="
        ) from None


def _is_readable(key: str) -> bool:
    try:
        return len(key.encode()) <= _READABLE_BYTES_MAX
    except UnicodeEncodeError:
        return False


def tell_codec(values: Values, function: Callable[..., Any]) -> None:
    """Tells the client's codec which types a function returns, if it wants to know.

    An annotation that means something to type checkers alone is left out: if a value then is of an
    unknown type, storing it raises InvalidValue, which says so.
    """
    if values.learning is None:
        return
    plain = inspect.unwrap(function)
    annotation: Any = None
    with suppress(Exception):
        annotation = plain.__annotations__["return"]
        alone = types.SimpleNamespace(__annotations__={"return": annotation})
        annotation = typing.get_type_hints(alone, plain.__globals__)["return"]
    values.learning.learn(annotation)


def is_function(ttl: Any) -> bool:
    """Whether `@memoize` was written without parentheses, so that it got the function."""
    return callable(ttl) or isinstance(ttl, (classmethod, property))


def with_attributes(
    call: Callable[P, R], keys: CallKeys, invalidate: Callable[..., Any]
) -> Memoized[P, R]:
    memoized = cast("Any", call)
    memoized.cache_key = keys
    memoized.invalidate = invalidate
    return cast("Memoized[P, R]", memoized)
