"""The group of all commands, by click: finds a command when it is called.

A command's module is imported only when that command runs, and makes heavy imports only inside
the command: `kvserve set` in a shell loop must not pay for the server or for tables of text.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from kvserve.cli.exits import exit_statuses
from kvserve.escaping import visible

# Command -> module of this package. A command `x` is that module's `x_command`.
SECTIONS = {
    "Server": dict.fromkeys(("serve", "stop", "doctor", "clean"), "serving")
    | {"config": "configuring"},
    "Data": {"get": "data"}
    | dict.fromkeys(("set", "add", "replace"), "storing")
    | dict.fromkeys(("delete", "incr", "decr", "touch", "ttl", "keys", "flush"), "data")
    | dict.fromkeys(("dump", "load"), "dumping"),
    "Looking": dict.fromkeys(("stats", "ping", "verify"), "inspecting")
    | {"watch": "watching", "top": "top", "bench": "bench"},
}
MODULES = {name: module for section in SECTIONS.values() for name, module in section.items()}


class Commands(click.Group):
    """A group whose commands are imported when needed and whose errors become exit statuses."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(MODULES)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in MODULES:
            return None
        module = importlib.import_module(f"kvserve.cli.{MODULES[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in `kvserve --help`, by section."""
        for title, names in SECTIONS.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(name, command.get_short_help_str(66)) for name, command in commands if command]
            with formatter.section(title):
                formatter.write_dl(rows)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _statuses():  # --help and --version print here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _statuses():
            result = super().invoke(ctx)
            sys.stdout.flush()  # so that a failure here is still reported
            return result


@contextmanager
def _statuses() -> Iterator[None]:
    """`exit_statuses`, except for the errors that click reports itself."""
    with exit_statuses(
        interrupts=(KeyboardInterrupt, click.Abort),
        passing=(click.ClickException, click.exceptions.Exit),
    ):
        try:
            yield
        except click.ClickException as error:
            # The message repeats the arguments, which a script may have taken from elsewhere.
            text = visible(error.format_message(), keep="\n")
            error.format_message = lambda: text  # type: ignore[method-assign]
            raise


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kvserve", message="kvserve %(version)s")
def cli() -> None:
    """One cache for every process on a host, in shared memory.

    \b
    Example:
      $ kvserve serve --memory 256MiB --daemon
      $ kvserve set greeting hello --ttl 60
      $ kvserve get greeting
      hello

    \b
    Exit status:
      0   done
      1   a miss, or a condition that was refused
      2   wrong usage
      3   no server, no answer in time, or a limit of the system
      65  the value of a key cannot be read
      70  a bug in kvserve
      74  input could not be read, or output not written

    \b
    Completion of commands and options by the shell, for instance in ~/.bashrc:
      eval "$(_KVSERVE_COMPLETE=bash_source kvserve)"
    and zsh_source or fish_source for these shells.
    """
