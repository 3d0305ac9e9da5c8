"""A flag for every setting of `kvserve serve`, made from the list of settings in kvserve.config."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kvserve.cli.options import Decorator
from kvserve.config import LOG_FORMATS, LOG_LEVELS, SIZES, Config, show

_CHOICES = {"log_level": LOG_LEVELS, "log_format": LOG_FORMATS}

config_file_option: Decorator = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A TOML file of settings.",
)


def settings_options(*only: str) -> Decorator:
    """Flags for every setting of Config, or for those named. A flag not given is None."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for setting in reversed(dataclasses.fields(Config)):
            if not only or setting.name in only:
                command = _setting_option(setting)(command)
        return command

    return decorate


def _setting_option(setting: dataclasses.Field[Any]) -> Decorator:
    flag = f"--{setting.name.replace('_', '-')}"
    details: dict[str, Any] = {"metavar": setting.name.upper()}
    if isinstance(setting.default, bool):
        # A setting that is on by default needs a flag that turns it off.
        flag += f"/--no-{setting.name}" if setting.default else ""
        details = {"is_flag": True}
    elif setting.name in _CHOICES:
        details = {"type": click.Choice(_CHOICES[setting.name])}
    elif setting.name in SIZES:
        details = {"metavar": "SIZE"}
    elif setting.name == "mode":
        details = {"metavar": "OCTAL"}
    elif setting.name == "store":
        details = {"metavar": "URL"}
    elif isinstance(setting.default, int):
        details = {"metavar": "N", "type": int}
    elif isinstance(setting.default, float):
        details = {"metavar": "SECONDS", "type": float}
    shown = show(setting.name, setting.default)
    help_text = setting.metadata["help"] + (f"  [default: {shown}]" if shown else "")
    return click.option(flag, setting.name, default=None, help=help_text, **details)
