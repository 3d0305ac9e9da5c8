"""Reads the configuration file again, and tells what of it can change while the server runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kvserve import config as configuration
from kvserve.config import Config

LIVE_SETTINGS = ("log_level",)


class ConfigFile:
    """The configuration file of a running server.

    What is in the running configuration but neither in the file nor in the environment was a
    flag, and a flag wins over the file, after a reload too.

    Args:
        path: the file.
        running: the configuration that the server started with.

    Raises:
        ConfigError: the file is bad.
    """

    def __init__(self, path: Path, running: Config) -> None:
        self.path = path
        self._loaded = configuration.load(path)
        self._flags = set(_differences(self._loaded, running))

    def reload(self, running: Config) -> tuple[Config, list[tuple[str, str]]]:
        """Reads the file again.

        Args:
            running: the configuration in use.

        Returns:
            The configuration from now on, and a remark on everything that differs in the file:
            a level of the log and a sentence.

        Raises:
            ConfigError: the file is bad; nothing changed.
        """
        loaded = configuration.load(self.path)
        remarks = []
        for name in _differences(self._loaded, loaded):
            value = getattr(loaded, name)
            if name in self._flags:
                remarks.append(("warning", f"{name} stays, because it was given by a flag"))
            elif name in LIVE_SETTINGS:
                running = dataclasses.replace(running, **{name: value})
                self._loaded = dataclasses.replace(self._loaded, **{name: value})
                remarks.append(("info", f"{name} is {value} now"))
            else:
                # Compared with what the server started with, so each reload says it again.
                remarks.append(("warning", f"{name} changed in the file; it needs a restart"))
        return running, remarks or [("info", "nothing changed")]


def _differences(one: Config, other: Config) -> list[str]:
    return [
        setting.name
        for setting in dataclasses.fields(Config)
        if getattr(one, setting.name) != getattr(other, setting.name)
    ]
