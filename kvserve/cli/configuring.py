"""The command `config`: the settings of a server to be started, and of one that runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kvserve import config as configuration
from kvserve import names
from kvserve.cli import output
from kvserve.cli.exits import NO_SERVER
from kvserve.cli.flags import config_file_option, settings_options
from kvserve.cli.options import KeyCommand, json_option, name_option
from kvserve.client.admin import settings
from kvserve.config import LIVE, Config, show
from kvserve.toml_file import read_settings

_EVERY = tuple(configuration.describe())


@click.group("config")
def config_command() -> None:
    """Show, check or change the settings of a server.

    \b
    Example:
      $ kvserve config check /etc/kvserve.toml && systemctl reload kvserve
      $ kvserve config set log_level debug
      log_level: info -> debug
    """


@config_command.command("get")
@click.argument("setting")
@json_option
@name_option
def get_command(setting: str, as_json: bool, name: str | None) -> None:
    """Print the value of a setting in the running server.

    Sizes are in bytes, except on a terminal; times in seconds.

    \b
    Example:
      $ kvserve config get log_level
      info
    """
    configuration.check_known(setting)
    config = settings.running(names.instance(name))
    if as_json:
        output.write_json({"setting": setting, "value": _value(config, setting)})
    else:
        output.write_line(_text(config, setting))


@config_command.command("set", cls=KeyCommand)
@click.argument("setting")
@click.argument("value")
@json_option
@name_option
def set_command(setting: str, value: str, as_json: bool, name: str | None) -> None:
    """Change a setting while the server runs.

    Of these: default_ttl, max_value (up to what the table was made for), log_level, slow_request,
    spin, buffer_memory, negative_ttl, store_timeout, near_cache_staleness. What the others need is
    a restart.

    The change lasts until the next one, a reload of the file (SIGHUP) or a restart. Every worker
    applies it within 200 ms and logs it; this command waits for them. Exits with 3 if one has not
    done so after 2 seconds; it will as soon as it can.

    Only the user who runs the server can do this.

    \b
    Example:
      $ kvserve config set log_level debug
      log_level: info -> debug
      $ kvserve config set max_value 64KiB
      max_value: 1 MiB -> 64 KiB
    """
    instance = names.instance(name)
    change = settings.change(instance, setting, value)
    late = settings.lagging(instance, change.version)
    if as_json:
        output.write_json({"setting": setting, **change._asdict(), "lagging_workers": late})
    else:
        old, new = show(setting, change.old), show(setting, change.new)
        output.write_line(f"{setting}: {old} -> {new}" if old != new else f"{setting}: {new} still")
    if late:
        workers = ", ".join(f"worker {index}" for index in late)
        text = f"not applied yet by {workers}; see settings_version in: kvserve stats"
        click.echo(f"kvserve: {text}", err=True)
        raise click.exceptions.Exit(NO_SERVER)


@config_command.command("show")
@settings_options("name")
@config_file_option
@click.option("--live", is_flag=True, help="Of the running server, with what needs a restart.")
@json_option
def show_command(config_file: Path | None, live: bool, as_json: bool, name: str | None) -> None:
    """Print every setting, its value, and where that came from.

    They are those that `kvserve serve` would start with here. The sources, each winning over
    those before it: default, file, environment, flag. With --live they are those of the running
    server, each with "live" if `kvserve config set` can change it, and "restart" if not.

    Sizes are in bytes, except on a terminal; times in seconds.

    \b
    Example:
      $ KVSERVE_WORKERS=2 kvserve config show | grep workers
      workers 2 environment
      $ kvserve config show --live | grep log_level
      log_level info live
    """
    if live:
        if config_file is not None:
            raise click.UsageError("--live asks the running server, not a file.")
        config = settings.running(names.instance(name))
        told = {setting: "live" if setting in LIVE else "restart" for setting in _EVERY}
        _print_settings(config, "changes", told, as_json)
        return
    config = configuration.load(config_file, {"name": name})
    sources = _sources(config_file, {"name": name})
    if config.group and sources["mode"] == "default":
        sources["mode"] = sources["group"]  # a group implies a mode
    _print_settings(config, "source", sources, as_json)


def _print_settings(config: Config, column: str, told: Mapping[str, str], as_json: bool) -> None:
    """Prints every setting with its value and what `told` has for it as the last column."""
    if as_json:
        output.write_json(
            {name: {"value": _value(config, name), column: told[name]} for name in _EVERY}
        )
        return
    for name in _EVERY:
        text = _text(config, name) or "-"
        if output.on_terminal():
            output.write_line(f"{name:<22}{text:<15}{told[name]}")
        else:
            output.write_line(f"{name} {text} {told[name]}")


def _value(config: Config, name: str) -> Any:
    """A setting's value for JSON, which has no octal numbers."""
    return show(name, config.mode) if name == "mode" else getattr(config, name)


def _text(config: Config, name: str) -> str:
    """A setting's value as text; sizes are plain numbers if a script reads them."""
    value = getattr(config, name)
    plain = name in configuration.SIZES and not output.on_terminal()
    return str(value) if plain else show(name, value)


def _sources(config_file: Path | None, flags: Mapping[str, Any]) -> dict[str, str]:
    """The source of each setting; the precedence is that of `config.load`."""
    in_file = read_settings(config_file) if config_file else {}
    sources = {}
    for setting in _EVERY:
        if flags.get(setting) is not None:
            sources[setting] = "flag"
        elif os.environ.get(configuration.ENVIRONMENT_PREFIX + setting.upper()):
            sources[setting] = "environment"
        else:
            sources[setting] = "file" if setting in in_file else "default"
    return sources


@config_command.command("check")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def check_command(file: Path, as_json: bool) -> None:
    """Check a file of settings; exit with 2 and say what is wrong if it is bad.

    \b
    Example:
      $ kvserve config check /etc/kvserve.toml
      /etc/kvserve.toml is valid
    """
    configuration.load(file, environment={})
    if as_json:
        output.write_json({"file": str(file), "valid": True})
    else:
        output.write_line(f"{file} is valid")
