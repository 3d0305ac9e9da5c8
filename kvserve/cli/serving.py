"""The commands for who runs the server: serve doctor clean config."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvserve import config as configuration
from kvserve import names
from kvserve.cli import output
from kvserve.cli.main import REFUSED
from kvserve.cli.options import Decorator, json_option, name_option
from kvserve.config import Config

if TYPE_CHECKING:
    from kvserve.parent.finding import Finding

_SIZES = ("memory", "item_size", "max_value", "queue_message")
# What doctor's checks depend on.
_CHECKED = (
    *("name", "memory", "workers", "shards", "item_size", "max_value", "fresh"),
    *("queue_depth", "queue_message"),
)
_CHOICES = {"log_level": configuration.LOG_LEVELS, "log_format": configuration.LOG_FORMATS}

config_file_option: Decorator = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A TOML file of settings.",
)


def settings_options(*only: str) -> Decorator:
    """A flag for every setting of Config, or for those named. A flag not given is None."""

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
    elif setting.name in _SIZES:
        details = {"metavar": "SIZE"}
    elif setting.name == "mode":
        details = {"metavar": "OCTAL"}
    elif isinstance(setting.default, int):
        details = {"metavar": "N", "type": int}
    shown = _show(setting.name, setting.default)
    help_text = setting.metadata["help"] + (f"  [default: {shown}]" if shown else "")
    return click.option(flag, setting.name, default=None, help=help_text, **details)


def _show(name: str, value: Any) -> str:
    """A setting's value as a flag or a variable would say it."""
    if name == "mode":
        return f"{value:04o}"
    if name in _SIZES:
        return configuration.format_size(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command("serve")
@settings_options()
@config_file_option
@click.option(
    "--daemon", is_flag=True, help="Go to the background once it serves; the log goes to a file."
)
def serve_command(config_file: Path | None, daemon: bool, **flags: Any) -> None:
    """Run the server of an instance.

    Every setting can be given as a flag, as a variable (KVSERVE_MEMORY and so on) or in a file;
    a flag wins over a variable, and a variable over the file. Sizes are written like 64KiB,
    256MiB or 2GiB.

    TERM and INT stop it gracefully, QUIT at once; HUP reads the file again, USR1 logs the
    statistics. The table stays in memory for the next start, until `kvserve clean` or a reboot.

    \b
    Example:
      $ kvserve serve
      $ kvserve serve --name sessions --memory 256MiB --group www-data --daemon
    """
    config = configuration.load(config_file, flags)
    from kvserve.parent.parent import serve  # not above: only this command needs the server

    raise click.exceptions.Exit(serve(config, config_file=config_file, daemon=daemon))


@click.command("clean")
@json_option
@name_option
def clean_command(as_json: bool, name: str | None) -> None:
    """Remove what an instance left, its kept table included.

    Prints the name of each thing removed. While the instance is served it refuses and exits
    with 3.

    \b
    Example:
      $ kvserve clean --name sessions
    """
    from kvserve.parent.cleanup import clean

    removed = clean(names.instance(name))
    if as_json:
        output.write_json({"removed": removed})
    else:
        for line in removed:
            output.write_line(line)


@click.command("doctor")
@settings_options(*_CHECKED)
@config_file_option
@json_option
def doctor_command(config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Check whether the server can run here.

    Where it cannot, each failed check says what mends it, and so does one that passed where
    more would be better. Takes the settings that matter from where `kvserve serve` takes them;
    run it as the user who is to serve. Exits with 1 if a check failed.

    \b
    Example:
      $ kvserve doctor --memory 2GiB
      $ kvserve doctor --json | jq -r '.[] | select(.ok | not) | .mend'
    """
    from kvserve.parent.doctor import doctor

    config = configuration.load(config_file, flags)
    findings = doctor(names.instance(config.name), config)
    if as_json:
        output.write_json([dataclasses.asdict(finding) for finding in findings])
    elif output.on_terminal():
        _print_findings_table(findings)
    else:
        for finding in findings:
            mend = f"; mend: {finding.mend}" if finding.mend else ""
            output.write_line(f"{_verdict(finding)}\t{finding.check}\t{finding.text}{mend}")
    if not all(finding.ok for finding in findings):
        raise click.exceptions.Exit(REFUSED)


def _verdict(finding: Finding) -> str:
    if finding.ok:
        return "ok"
    return "fail" if finding.fatal else "warn"


def _print_findings_table(findings: list[Finding]) -> None:
    from rich import box  # not above: only tables need it
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table(box=box.SIMPLE, show_header=False)
    for finding in findings:
        verdict = _verdict(finding)
        text = Text(finding.text)
        if finding.mend:
            text.append(f"\n{finding.mend}", style="bold")
        table.add_row(Text(verdict, style=styles[verdict]), Text(finding.check), text)
    Console(highlight=False).print(table)


@click.group("config")
def config_command() -> None:
    """Show the settings of a server, or check a file of them.

    \b
    Example:
      $ kvserve config check /etc/kvserve.toml && systemctl reload kvserve
    """


@config_command.command("show")
@settings_options("name")
@config_file_option
@json_option
def show_command(config_file: Path | None, as_json: bool, name: str | None) -> None:
    """Print every setting, its value, and where that came from.

    The sources, each winning over those before it: default, file, environment, flag. Sizes
    are in bytes, except on a terminal.

    \b
    Example:
      $ KVSERVE_WORKERS=2 kvserve config show | grep workers
      workers 2 environment
    """
    config = configuration.load(config_file, {"name": name})
    sources = _sources(config_file, {"name": name})
    values = {setting: getattr(config, setting) for setting in sources}
    if config.group and sources["mode"] == "default":
        sources["mode"] = sources["group"]  # a group implies a mode
    values["mode"] = f"{config.mode:04o}"
    if as_json:
        output.write_json(
            {setting: {"value": values[setting], "source": sources[setting]} for setting in sources}
        )
        return
    for setting, source in sources.items():
        if output.on_terminal():
            shown = _show(setting, getattr(config, setting)) or "-"
            output.write_line(f"{setting:<15}{shown:<15}{source}")
        else:
            value = values[setting]
            plain = str(value).lower() if isinstance(value, bool) else value
            output.write_line(f"{setting} {'-' if plain == '' else plain} {source}")


def _sources(config_file: Path | None, flags: Mapping[str, Any]) -> dict[str, str]:
    """Where each setting comes from; the order of winning is that of `config.load`."""
    in_file = tomllib.loads(config_file.read_text()) if config_file else {}
    sources = {}
    for setting in configuration.describe():
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
