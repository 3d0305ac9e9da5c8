"""Servers for the tests of programs that use kvserve: `server`, and fixtures for pytest.

docs/testing.md shows both. The fixtures are in `pytest_plugin`, which pytest finds by itself; it is
imported in every run of pytest where kvserve is installed, so nothing here imports much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvserve.testing.instance import Server, server

__all__ = ["Server", "server"]


def __dir__() -> list[str]:
    """The names that exist, and those that `__getattr__` imports at first use."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Imports a name at its first use, and keeps it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kvserve.testing import instance

    globals()[name] = getattr(instance, name)
    return globals()[name]
