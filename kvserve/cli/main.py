"""The `kvserve` command: finds its commands when they are called, and turns errors into statuses.

A command's module is imported only when that command runs, and imports what is heavy only inside
the command: `kvserve get` in a shell loop must not pay for the server or for tables of text.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from kvserve.errors import InternalError, KvserveError, MisuseError

DONE = 0
REFUSED = 1  # a miss, or a condition that does not hold: an answer for `if kvserve get ...`
USAGE = 2  # click's own
NO_SERVER = 3
BUG = 70  # EX_SOFTWARE of sysexits.h
OUTPUT_FAILED = 74  # EX_IOERR, for a full disk behind `>`
INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended
PIPE_CLOSED = 141  # and for one that SIGPIPE ended

# Command -> module of this package. A command `x` is that module's `x_command`.
SECTIONS = {
    "Server": dict.fromkeys(("serve", "doctor", "clean"), "serving") | {"config": "configuring"},
    "Data": {"get": "data"}
    | dict.fromkeys(("set", "add", "replace"), "storing")
    | dict.fromkeys(("delete", "incr", "decr", "touch", "ttl", "keys", "flush"), "data")
    | dict.fromkeys(("dump", "load"), "dumping"),
    "Looking": dict.fromkeys(("stats", "ping", "verify"), "looking")
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
        with _exit_statuses():  # --help and --version print here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _exit_statuses():
            result = super().invoke(ctx)
            sys.stdout.flush()  # so that what fails here is still told
            return result


@contextmanager
def _exit_statuses() -> Iterator[None]:
    """Tells errors in one sentence, and turns them into exit statuses."""
    try:
        yield
    except KvserveError as error:
        click.echo(f"kvserve: {error or type(error).__name__}", err=True)
        raise click.exceptions.Exit(exit_status(error)) from None
    except BrokenPipeError:
        _abandon_stdout()
        raise click.exceptions.Exit(PIPE_CLOSED) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else "reading or writing failed: "
        click.echo(f"kvserve: {where}{error.strerror or error}", err=True)
        _abandon_stdout()
        raise click.exceptions.Exit(OUTPUT_FAILED) from None
    except (KeyboardInterrupt, click.Abort):
        raise click.exceptions.Exit(INTERRUPTED) from None
    except (click.ClickException, click.exceptions.Exit):
        raise
    except Exception:
        import traceback  # not above: it is slow to import

        # Python's own status for this, 1, would look like a miss.
        traceback.print_exc()
        click.echo("kvserve: this is a bug; please report it with the lines above", err=True)
        raise click.exceptions.Exit(BUG) from None


def exit_status(error: KvserveError) -> int:
    """The exit status that tells whose move it is.

    Example:
        >>> from kvserve.errors import InvalidKey, ServerBusy
        >>> exit_status(InvalidKey()), exit_status(ServerBusy())
        (2, 3)
    """
    if isinstance(error, MisuseError):
        return USAGE
    return BUG if isinstance(error, InternalError) else NO_SERVER


def _abandon_stdout() -> None:
    """Leads standard output to nowhere: the flush at the interpreter's end would fail again."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return  # a stand-in without a descriptor
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


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
      3   no server, or no answer in time
      70  a bug in kvserve
      74  input could not be read, or output not written

    \b
    Completion of commands and options by the shell, for instance in ~/.bashrc:
      eval "$(_KVSERVE_COMPLETE=bash_source kvserve)"
    and zsh_source or fish_source for these shells.
    """


def main() -> None:
    """The entry point: runs the command line and exits."""
    _replace_closed_streams()
    cli(prog_name="kvserve")


def _replace_closed_streams() -> None:
    """Opens /dev/null where the shell closed a stream, as in `kvserve get k >&-`.

    Otherwise the next file that is opened, a FIFO to a worker perhaps, would take its number.
    """
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:
            # The lowest free number, so the closed stream's own.
            setattr(sys, stream, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
