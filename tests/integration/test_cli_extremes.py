"""Every command with every option at its extremes: one sentence and a status of its own, always.

The commands and their options are click's own registry, so that a new one is covered.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.servers import Server
from unit.test_dump_hostile import HEAD, TAIL, frame

from kvserve.cli.commands import cli
from kvserve.protocol.dump import MAGIC

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
        is_read_whole = parameter.name in ("config_file", "trace") or command.name == "check"
        # To read, /dev/full has no end.
        extremes = [each for each in EXTREMES if each != "/dev/full" or not is_read_whole]
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
    """Commands that go on for ever end at once, and no server is started or stopped."""

    def end(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("KVSERVE_NAME", shared.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kvserve.parent.parent.serve", end)  # doctor checks what it checks
    monkeypatch.setattr("kvserve.parent.stopping.stop", end)  # the others need the server
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


def test_load_ends_in_a_sentence_whatever_a_dump_holds(shared: Server, tmp_path: Path) -> None:
    file = tmp_path / "dump"
    for header in ([0, MAGIC, 1], [0, MAGIC, 1, "a", 1, 2], [0, MAGIC, 1, 5, "x"]):
        file.write_bytes(frame(header) + TAIL)
        result = CliRunner().invoke(cli, ["load", str(file), "--name", shared.name])
        assert result.exit_code == 2, result.output
        assert result.output.startswith("kvserve: record 1 at byte 0 is a header")
        assert result.output.count("\n") == 1
    for codec in (-(2**63), -1, 99, 2**63, 2**64 - 1):
        for expires_at_ms in (0, 1, 2**63, 2**64 - 1):
            file.write_bytes(HEAD + frame([1, "k", codec, b"v", expires_at_ms]) + TAIL)
            result = CliRunner().invoke(cli, ["load", str(file), "--name", shared.name])
            assert result.exit_code == 1, result.output  # the trailer tells of more records
            assert result.output.startswith("loaded ")
            assert result.output.count("\n") == 1
