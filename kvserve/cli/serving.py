"""The commands for the operator of the server: serve stop doctor clean."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvserve import config as configuration
from kvserve import names
from kvserve.cli import output
from kvserve.cli.exits import REFUSED
from kvserve.cli.flags import config_file_option, settings_options
from kvserve.cli.options import json_option, name_option
from kvserve.escaping import visible

if TYPE_CHECKING:
    from kvserve.parent.finding import Finding

# The settings that doctor's checks depend on.
_CHECKED = (
    *("name", "memory", "workers", "shards", "item_size", "max_value", "fresh"),
    *("queue_depth", "queue_message"),
)


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
    statistics. `kvserve config set` changes some settings while it runs. The table stays in
    memory for the next start, until `kvserve clean` or a reboot.

    \b
    Example:
      $ kvserve serve
      $ kvserve serve --name sessions --memory 256MiB --group www-data --daemon
    """
    config = configuration.load(config_file, flags)
    from kvserve.parent.parent import serve  # not above: only this command needs the server

    raise click.exceptions.Exit(serve(config, config_file=config_file, daemon=daemon))


@click.command("stop")
@name_option
def stop_command(name: str | None) -> None:
    """Stop the server of an instance.

    Ends it as TERM does, and returns when it has ended. The table stays in memory for the next
    start; `kvserve clean` removes it. Exits with 3 if no server runs.

    \b
    Example:
      $ kvserve stop --name sessions && kvserve clean --name sessions
    """
    from kvserve.parent.stopping import stop

    stop(names.instance(name))


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

    Where it cannot, each failed check says what fixes it, and so does one that passed where
    more would be better. Takes the settings that matter from where `kvserve serve` takes them;
    run it as the user who is to serve. Exits with 1 if a check failed.

    \b
    Example:
      $ kvserve doctor --memory 2GiB
      $ kvserve doctor --json | jq -r '.[] | select(.ok | not) | .fix'
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
            fix = f"; fix: {finding.fix}" if finding.fix else ""
            output.write_line(_verdict(finding), finding.check, finding.text + fix)
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
        text = Text(visible(finding.text))
        if finding.fix:
            text.append(f"\n{visible(finding.fix)}", style="bold")
        table.add_row(Text(verdict, style=styles[verdict]), Text(finding.check), text)
    Console(highlight=False).print(table)
