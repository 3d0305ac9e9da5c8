"""The command line without a server: help, usage, exit statuses, settings, what it prints."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click
import pytest
from click.testing import CliRunner, Result

from kvserve import errors
from kvserve.bench import driver, samples
from kvserve.bench.operations import READ
from kvserve.cli import output
from kvserve.cli.commands import MODULES, cli
from kvserve.config import Config
from kvserve.names import Names
from kvserve.parent.inspection import Inspection

PRINT_JSON = set(MODULES) - {
    *("serve", "stop", "set", "add", "replace", "touch", "flush", "config", "dump"),
}


def in_process(*arguments: str) -> Result:
    """Runs the command in this process, for what needs no server."""
    return CliRunner().invoke(cli, list(arguments))


def every_command() -> list[list[str]]:
    """The words of each command, groups and what is in them included."""
    found: list[list[str]] = []
    context = click.Context(cli)
    for name in cli.list_commands(context):
        found.append([name])
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            found += [[name, below] for below in command.commands]
    return found


@pytest.mark.parametrize("words", [[], *every_command()], ids=" ".join)
def test_help_describes_itself_with_an_example(words: list[str]) -> None:
    result = in_process(*words, "--help")
    assert result.exit_code == 0
    assert "Example:\n" in result.output
    assert "  $ " in result.output
    assert in_process(*words, "-h").output == result.output


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_every_command_takes_a_name(words: list[str]) -> None:
    assert words[0] == "config" or "--name" in in_process(*words, "--help").output


@pytest.mark.parametrize("name", sorted(PRINT_JSON))
def test_commands_that_print_take_json(name: str) -> None:
    assert "--json" in in_process(name, "--help").output


def test_help_lists_every_command_and_the_exit_statuses() -> None:
    text = in_process("--help").output
    assert all(f"\n  {name} " in text for name in MODULES)
    assert "Exit status:" in text
    assert "_KVSERVE_COMPLETE" in text


def test_serve_has_a_flag_for_every_setting() -> None:
    text = in_process("serve", "--help").output
    for setting in dataclasses.fields(Config):
        assert f"--{setting.name.replace('_', '-')} " in text


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["get"],
        ["set", "k"],
        ["set", "k", "v", "--no-such-option"],
        ["set", "k", "v", "--type", "float"],
        ["set", "k", "v", "--type", "int"],
        ["set", "k", "{", "--type", "json"],
        ["set", "k", "[NaN]", "--type", "json"],
        ["set", "k", "--verbose"],
        ["set", "k", "-5", "--ttl"],
        ["set", "k", "-5", "--tll", "9"],
        ["get", "-x"],
        ["set", "k", "v", "--ttl", "soon"],
        ["incr", "k", "--tll"],
        ["keys", "--limit", "-1"],
        ["bench", "--processes", "0"],
        ["bench", "--write-share", "1.5"],
        ["bench", "--workload", "e"],
        ["bench", "--workload", "a", "--write-share", "0.5"],
        ["bench", "--memory", "1MiB"],
        ["bench", "--trace", "/dev/null", "--memory", "1KiB"],
        ["bench", "--trace", "/dev/null", "--memory", "big"],
        ["bench", "--trace", "/dev/null"],
        ["bench", "--trace", "absent.trace"],
        ["bench", "--plot", "picture.txt"],
        ["bench", "--plot", "absent/picture.svg"],
        ["bench", "--seconds", "nan"],
        ["bench", "--write-share", "nan"],
        ["bench", "--value-size", "99999999999999"],
        ["top", "--interval", "nan"],
        ["serve", "--workers", "many"],
        ["serve", "--memory", "big"],
        ["serve", "--mode", "0999"],
        ["serve", "--group", "users", "--mode", "0600"],
        ["serve", "--config", "absent.toml"],
        ["get", "k", "--name", "no/such/name"],
        ["config", "check", "absent.toml"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_says_why(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where nothing is, whatever the machine has elsewhere
    result = in_process(*words)
    assert result.exit_code == 2
    assert "Error: " in result.output or result.output.startswith("kvserve: ")


def test_an_option_that_may_be_a_value_leads_to_the_two_dashes() -> None:
    hint = "Before a key or value that begins with a dash write --."
    assert hint in in_process("set", "k", "-vv").output
    slip = in_process("set", "k", "v", "--tll", "9").output
    assert "Did you mean '--ttl'?" in slip
    assert hint not in slip


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["k", "-5"], ["k", "-5"]),
        (["-5", "-.5e3", "--ttl", "60"], ["-5", "-.5e3"]),
        (["--ttl", "60", "k", "-0.25"], ["k", "-0.25"]),
        (["k", "-5", "--name=n"], ["k", "-5"]),
        (["k", "--", "-5"], ["k", "-5"]),
        (["-5", "--", "--ttl"], ["-5", "--ttl"]),
        (["--ttl", "-5", "k", "v"], ["k", "v"]),
        (["k", "-"], ["k", "-"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_negative_number_is_no_option(words: list[str], arguments: list[str]) -> None:
    command = cli.get_command(click.Context(cli), "set")
    assert command is not None
    parsed = command.make_context("set", list(words)).params
    assert [parsed["key"], parsed["value"]] == arguments
    assert parsed["name"] == ("n" if "--name=n" in words else None)
    ttl = float(words[words.index("--ttl") + 1]) if "--ttl" in words[:-1] else None
    assert parsed["ttl"] == ttl


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidKey("said"), 2),
        (errors.NotACounter("said"), 2),
        (errors.ConfigError("said"), 2),
        (errors.ServerUnavailable("said"), 3),
        (errors.ServerBusy("said"), 3),
        (errors.RequestTimeout("said"), 3),
        (errors.OutcomeUnknown("said"), 3),
        (errors.ForeignObject("said"), 3),
        (errors.TableCorrupt("said"), 70),
        (errors.InternalError("said"), 70),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (OSError(28, "said"), 74),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_errors_become_exit_statuses(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvserve.cli.data.connect", raising(error))
    result = in_process("get", "k")
    assert result.exit_code == status
    if isinstance(error, Exception) and str(error):
        assert result.output.startswith("kvserve: ")
        assert result.output.endswith("said\n")
        assert result.output.count("\n") == 1
    else:
        assert result.output == ""


def test_a_bug_shows_its_traceback_and_is_no_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvserve.cli.data.connect", raising(ZeroDivisionError()))
    result = in_process("get", "k")
    assert result.exit_code == 70
    assert "Traceback" in result.output
    assert result.output.endswith("please report it with the lines above\n")


def raising(error: BaseException) -> Callable[..., NoReturn]:
    """A stand-in for any function, which raises `error`."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


# --- Settings


def test_config_show_names_each_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kvserve.toml"
    file.write_text('memory = "64MiB"\nworkers = 1\n')
    monkeypatch.setenv("KVSERVE_WORKERS", "3")
    monkeypatch.setenv("KVSERVE_GROUP", "users")
    result = in_process("config", "show", "--config", str(file), "--name", "mine", "--json")
    shown = json.loads(result.output)
    assert list(shown) == [setting.name for setting in dataclasses.fields(Config)]
    assert shown["name"] == {"value": "mine", "source": "flag"}
    assert shown["memory"] == {"value": 64 * 2**20, "source": "file"}
    assert shown["workers"] == {"value": 3, "source": "environment"}
    assert shown["mode"] == {"value": "0660", "source": "environment"}
    assert shown["keep"] == {"value": True, "source": "default"}


def test_config_show_prints_a_setting_a_line() -> None:
    lines = in_process("config", "show").output.splitlines()
    assert [len(line.split(" ")) for line in lines] == [3] * len(dataclasses.fields(Config))
    assert "memory 50331648 default" in lines
    assert "group - default" in lines
    assert "keep true default" in lines


def test_config_check(tmp_path: Path) -> None:
    file = tmp_path / "kvserve.toml"
    file.write_text("workers = 2\n")
    result = in_process("config", "check", str(file))
    assert (result.exit_code, result.output) == (0, f"{file} is valid\n")
    file.write_text("wokers = 2\n")
    result = in_process("config", "check", str(file))
    assert result.exit_code == 2
    assert result.output.startswith(f"kvserve: {file}: unknown key 'wokers'")


def test_config_check_minds_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVSERVE_WORKERS", "none of your business")
    file = tmp_path / "kvserve.toml"
    file.write_text("")
    assert in_process("config", "check", str(file)).exit_code == 0


def test_verify_tells_violations(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def verify(self) -> list[str]:
            return ["shard 3: two records overlap"]

    monkeypatch.setattr("kvserve.cli.inspecting.connect", lambda *_: Broken())
    result = in_process("verify")
    assert (result.exit_code, result.output) == (1, "shard 3: two records overlap\n")


def test_verify_tells_what_is_wrong_with_a_kept_table(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Inspection(["shard 3: two records overlap"], 2)
    monkeypatch.setattr("kvserve.parent.inspection.inspect_kept", lambda _: found)
    result = in_process("verify", "--name", names.name)
    assert result.exit_code == 1
    assert result.output.splitlines()[0] == "shard 3: two records overlap"
    assert result.output.splitlines()[1].startswith("unrecovered: 2 of its shards")
    result = in_process("verify", "--name", names.name, "--json")
    assert result.exit_code == 1
    assert json.loads(result.output) == {
        "violations": found.violations,
        "kept": True,
        "unrecovered_shards": 2,
    }


def test_samples_are_bounded_and_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_SAMPLES_MAX", 100)
    taken = samples.Samples()
    for start in range(0, 1000, 7):
        taken.add(array("q", range(start, min(start + 7, 1000))))
    assert (taken.count, taken.max_ns) == (1000, 999)
    assert len(taken.latencies_ns) <= 100
    assert list(taken.latencies_ns) == list(range(0, 1000, taken.stride))


def test_merge_weighs_every_process_alike() -> None:
    fine = samples.Samples(array("q", range(8)), 8, 7, 1)
    coarse = samples.Samples(array("q", range(0, 8, 4)), 8, 7, 4)
    assert samples.merge([fine, coarse]) == [0, 0, 4, 4]


def test_what_measuring_costs_on_a_machine_that_takes_the_processor_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "perf_counter_ns", itertools.count(0, 20_000_000).__next__)
    measured = driver._calibrate([[(READ, "k")] * 10] * 2)
    assert (measured.clock_ns, measured.count) == (20_000_000, 0)


def test_json_of_what_json_lacks() -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    value = {moment: (b"\xff", float("nan")), b"k": moment, (1, 2): None, b"\xff": "é"}
    assert json.loads(output.json_text(value)) == {
        "2026-01-02T03:04:05+00:00": [{"$base64": "/w=="}, {"$float": "NaN"}],
        "k": "2026-01-02T03:04:05+00:00",
        "[1, 2]": None,
        "/w==": "é",
    }


@pytest.mark.parametrize(
    ("number", "text"),
    [(float("inf"), '{"$float": "Infinity"}'), (float("-inf"), '{"$float": "-Infinity"}')],
)
def test_infinities_are_named(number: float, text: str) -> None:
    assert output.json_text(number) == text
