"""Every command with every option at its extremes: one sentence and a status of its own, always.

The commands and their options are click's own registry, so that a new one is covered.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from servers import Server

from kvserve.cli.commands import cli

STATUSES = {0, 1, 2, 3, 74, 130}  # all that `kvserve --help` lists, but for a bug's
EXTREMES = (
    *("", "0", "-0", "-1", "1", "0.5", "nan", "inf", "-inf", "1e-7", "5e-324", "1e308", "1e999"),
    *(str(2**31), str(2**63 - 1), str(2**63), str(2**64), "9" * 20, "9" * 5000, "-" + "9" * 20),
    *("\udcff", "é", "\x1b[2J", "a\nb", "x" * 100_000, "{", "[" * 100_000, "1TiB", "0.1", "0x10"),
    *("/", "/dev/null", "/dev/full", "/nonexistent/file", "true", "none", "--", "-"),
)
PLAIN = {"keys": "k", "key": "k", "value": "v", "setting": "spin", "file": "/dev/null"}


def every_command() -> Iterator[tuple[list[str], click.Command]]:
    """The words of each command and what click knows of it."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from (([name, below], each) for below, each in command.commands.items())
        else:
            yield [name], command


def cases(command: click.Command) -> Iterator[list[str]]:
    """Arguments for a command: each option, and each argument, at each extreme."""
    plain = [
        PLAIN[parameter.name or ""]
        for parameter in command.params
        if isinstance(parameter, click.Argument) and parameter.required
    ]
    ending = ["--once"] if command.name == "top" else []  # it would never end by itself
    yield [*ending, "--", *plain]
    for parameter in command.params:
        is_settings = parameter.name == "config_file" or command.name == "check"
        # /dev/full has no end, and a file of settings is read whole.
        extremes = [each for each in EXTREMES if each != "/dev/full" or not is_settings]
        option = parameter.opts[0]
        if isinstance(parameter, click.Argument):
            place = plain.index(PLAIN[option]) if parameter.required else len(plain)
            for each in extremes:
                yield [*ending, "--", *plain[:place], each, *plain[place + 1 :]]
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            yield [*ending, option, "--", *plain]
        else:
            yield from ([*ending, f"{option}={each}", "--", *plain] for each in extremes)


@pytest.fixture
def harmless(shared: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that go on for ever end at once, and a server is only about to be started."""

    def end(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("KVSERVE_NAME", shared.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kvserve.parent.parent.serve", end)  # doctor checks what it checks
    monkeypatch.setattr("kvserve.cli.watching.time.sleep", end)
    monkeypatch.setattr("kvserve.cli.top._sleep", end)
    monkeypatch.setattr("kvserve.cli.bench._measure", end)


@pytest.mark.usefixtures("harmless")
@pytest.mark.parametrize(
    ("words", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in every_command()]
)
def test_no_option_at_any_extreme_ends_in_a_traceback(
    words: list[str], command: click.Command
) -> None:
    for arguments in cases(command):
        result = CliRunner().invoke(cli, [*words, *arguments])
        shown = [each[:50] for each in arguments]
        told = f"{words} {shown}: {result.exit_code} {result.output[-2000:]!r}"
        assert result.exit_code in STATUSES, told
        assert "Traceback" not in result.output, told
        if result.exit_code in (2, 3, 74):
            assert "Error: " in result.output or "kvserve: " in result.output, told
