"""Turns the settings page into the configuration in force, and lists what changed in it.

The page holds the values of a whole `Config`: so its readers need no other source, and the checks
of `Config` find whatever is wrong with a change before it is published.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from kvserve import config as configuration
from kvserve.config import Config
from kvserve.errors import ConfigError, ForeignObject
from kvserve.live.settings import SettingsPage, Value

_PASSWORD = re.compile(r"(?<=://).*(?=@)")  # to the last @: it may hide too much, never too little


def to_page(config: Config) -> dict[str, Value]:
    """A configuration as the page holds it.

    A group's members can read the page, so a password in the store's URL is left out.

    Example:
        >>> to_page(Config(store="valkey://app:secret@db:6379"))["store"]
        'valkey://***@db:6379'
    """
    return dataclasses.asdict(config) | {"store": _PASSWORD.sub("***", config.store)}


def from_page(values: dict[str, Value]) -> Config:
    """The configuration in a page.

    Raises:
        ForeignObject: another version of kvserve, with other settings, wrote it.
    """
    try:
        if set(values) != set(configuration.describe()):
            raise ConfigError("other names")
        return Config(**values)  # type: ignore[arg-type]
    except (ConfigError, TypeError) as error:
        raise ForeignObject(f"the settings page is another program's: {error}") from None


def differences(old: Config, new: Config) -> list[str]:
    """The changed settings, a text for each.

    Example:
        >>> differences(Config(), Config(log_level="debug", spin=0))
        ['log_level: info -> debug', 'spin: 50 -> 0']
    """
    return [
        f"{name}: {configuration.show(name, before)} -> {configuration.show(name, after)}"
        for name in configuration.describe()
        if (before := getattr(old, name)) != (after := getattr(new, name))
    ]


class Follower:
    """Keeps a process's configuration as the page says. `poll` is called by its event loop.

    Args:
        page: closed with this.
        apply: called by `poll` with the configuration before and after each change.

    Raises:
        ForeignObject: the page is damaged.
    """

    def __init__(self, page: SettingsPage, apply: Callable[[Config, Config], None]) -> None:
        self._page = page
        self._apply = apply
        found = page.read()
        self._seen = self.version = found.version
        self.config = from_page(found.values)

    def poll(self) -> None:
        """Applies what was published since the last call; if nothing was, costs a load from memory.

        Raises:
            ForeignObject: what was published is damaged. The settings in force stay, and the next
                call does not raise it again.
        """
        if self._page.version == self._seen:
            return
        self._seen = self._page.version
        found = self._page.read()
        old, self.config = self.config, from_page(found.values)
        self._seen = self.version = found.version
        self._apply(old, self.config)

    def close(self) -> None:
        """Closes the page."""
        self._page.close()
