"""Reads the configuration file again, and reports which settings cannot change now."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kvserve import config as configuration
from kvserve.config import LIVE, Config
from kvserve.live import settings
from kvserve.live.applying import from_page, to_page
from kvserve.names import Names
from kvserve.units import format_size

LOCK_SECONDS = 0.2  # the parent must not wait long
Remark = tuple[str, str]  # a level of the log, and a sentence


class ConfigFile:
    """The configuration file of a running server.

    A setting of the running configuration that is neither in the file nor in the environment was
    given by a flag, and a flag wins over the file, after a reload too.

    Args:
        path: the file.
        started: the configuration that the server starts with.

    Raises:
        ConfigError: the file is bad.
    """

    def __init__(self, path: Path, started: Config) -> None:
        self.path = path
        self._started = started
        self._loaded = configuration.load(path)
        self._flags = set(_differences(self._loaded, started))

    def publish(self, names: Names, max_value: int) -> list[Remark]:
        """Reads the file again and publishes its live settings; see `reload`.

        Args:
            names: the instance's.
            max_value: the largest value that the table was made for, in bytes.

        Returns:
            A remark on each setting that cannot be as the file says.

        Raises:
            ConfigError: the file is bad.
            ForeignObject, OSError, ServerBusy: see `settings.writing`. Nothing changed in any case.
        """
        with settings.writing(names, LOCK_SECONDS) as page:
            running = from_page(page.read().values)
            wanted, remarks = self.reload(running, max_value)
            if wanted != running:
                page.publish(to_page(wanted))
        return remarks

    def reload(self, running: Config, max_value: int) -> tuple[Config, list[Remark]]:
        """Reads the file again. Its live settings win over what `kvserve config set` changed.

        Args:
            running: the configuration in use.
            max_value: the largest value that the table was made for, in bytes.

        Returns:
            The configuration from now on, and a remark on each setting that cannot be as the file
            says.

        Raises:
            ConfigError: the file is bad; nothing changed.
        """
        loaded = configuration.load(self.path)
        remarks = []
        for name in _differences(self._loaded, loaded):
            # Compared with what the server started with, so each reload repeats the remark.
            if name in self._flags:
                remarks.append(("warning", f"{name} stays, because it was given by a flag"))
            elif name not in LIVE:
                remarks.append(("warning", f"{name} changed in the file; it needs a restart"))
            elif name == "max_value" and loaded.max_value > max_value:
                text = f"max_value above {format_size(max_value)} needs a restart"
                remarks.append(("warning", text))
        wanted = {
            name: getattr(self._started if name in self._flags else loaded, name) for name in LIVE
        }
        wanted["max_value"] = min(wanted["max_value"], max_value)
        return dataclasses.replace(running, **wanted), remarks


def _differences(one: Config, other: Config) -> list[str]:
    return [name for name in configuration.describe() if getattr(one, name) != getattr(other, name)]
