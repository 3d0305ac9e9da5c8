"""The command bench: flags that belong together, a progress bar, and where the results go."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvserve.bench import operations, plot
from kvserve.cli import output
from kvserve.cli.exits import INTERRUPTED
from kvserve.cli.options import NumberRange, client_options, connect, json_option
from kvserve.errors import ConfigError, ServerError
from kvserve.limits import MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, VALUE_BYTES_MAX
from kvserve.units import format_size, parse_size

if TYPE_CHECKING:
    from kvserve.bench.samples import Measured

_WRITE_SHARE_DEFAULT = 0.1
_ONLY_LIVE = ("workload", "write_share", "processes", "seconds", "keys", "mode")


def _parse_sizes(
    _context: click.Context, _parameter: click.Parameter, texts: Sequence[str]
) -> list[int]:
    try:
        sizes = [parse_size(text) for text in texts]
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
    if not all(MEMORY_BYTES_MIN <= size <= MEMORY_BYTES_MAX for size in sizes):
        least, most = format_size(MEMORY_BYTES_MIN), format_size(MEMORY_BYTES_MAX)
        raise click.BadParameter(f"a table has {least} to {most}")
    return sizes


def _check_plot(
    _context: click.Context, _parameter: click.Parameter, path: Path | None
) -> Path | None:
    """Fails now rather than after everything has been measured."""
    if path is None:
        return None
    if path.suffix not in plot.FORMATS:
        raise click.BadParameter(f"{str(path)!r} must end in one of {', '.join(plot.FORMATS)}")
    if not path.parent.is_dir():
        raise click.BadParameter(f"there is no directory {str(path.parent)!r}")
    if not path.exists() and not os.access(path.parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"directory {str(path.parent)!r} is not writable")
    if importlib.util.find_spec("matplotlib") is None:
        raise click.BadParameter("drawing needs matplotlib; run: pip install 'kvserve[plot]'")
    return path


@click.command("bench")
@click.option(
    "--workload",
    type=click.Choice([name.lower() for name in operations.YCSB], case_sensitive=False),
    help="One of YCSB's core workloads.  [default: gets and sets of keys equally likely]",
)
@click.option(
    "--write-share",
    type=NumberRange(0, 1),
    default=_WRITE_SHARE_DEFAULT,
    show_default=True,
    metavar="SHARE",
    help="Share of sets among the operations, from 0 to 1, without --workload.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    metavar="N",
    help="How many processes measure at once.",
)
@click.option(
    "--seconds",
    type=NumberRange(0, 86_400, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to measure.",
)
@click.option(
    "--value-size",
    type=click.IntRange(0, VALUE_BYTES_MAX),
    default=100,
    show_default=True,
    metavar="BYTES",
    help="Size of each value; in a trace, of those that have none.",
)
@click.option(
    "--keys",
    type=click.IntRange(1, 10_000_000),
    default=10_000,
    show_default=True,
    metavar="N",
    help="How many keys.",
)
@click.option(
    "--mode",
    type=click.Choice(["direct", "worker", "writer"]),
    default="direct",
    show_default=True,
    help="Read from shared memory; ask the worker even for reads; or write it, too (serve "
    "--writers).",
)
@click.option(
    "--trace",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Replay a trace over tables of several sizes; - is standard input.",
)
@click.option(
    "--memory",
    multiple=True,
    callback=_parse_sizes,
    metavar="SIZE",
    help="A size for --trace, repeatable.  [default: powers of two, up to what holds all]",
)
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=_check_plot,
    metavar="FILE",
    help="Draw the latencies, or the hit ratios, as .svg, .png or .pdf.",
)
@json_option
@client_options
def bench_command(trace: str | None, **flags: Any) -> None:
    """Measure a running instance, or find the memory that a trace needs.

    Fills keys of its own, gets and sets them, and deletes them. Prints the rate and the
    latencies, in microseconds, of gets that hit, gets that missed, sets, and modifications: a
    get and a set in turn. Each process does one after the other. A latency contains what taking
    the time costs, and a rate the loop around it; both costs are printed too. A full instance
    evicts other keys to make room.

    --workload: a has as many gets as sets, b 5 % sets, c none, f 50 % modifications, all of
    keys by Zipf's law with .99; d has 5 % inserts, and gets of what was inserted last.

    --trace needs no server and changes nothing: it replays the requests in FILE over tables of
    its own, a get that misses followed by a set, and prints the hit ratio of each size. Each line
    of FILE is a request: KEY [BYTES] [get|set|delete], as in "user:1 512 set"; the file may be
    compressed (.gz, .xz). docs/bench.md says how to record one.

    Ctrl-C ends it early and prints what was measured until then.

    \b
    Example:
      $ kvserve bench --workload b --processes 4 --seconds 10 --plot latency.svg
      $ kvserve bench --mode worker --json | jq '.get["p99_us"]'
      $ kvserve bench --trace requests.xz
      $ kvserve bench --trace requests.xz --memory 100MiB --memory 200MiB
    """
    _refuse_mixtures(trace)
    interrupted = _measure(**flags) if trace is None else _replay(trace, **flags)
    if interrupted:
        raise click.exceptions.Exit(INTERRUPTED)


def _refuse_mixtures(trace: str | None) -> None:
    """Refuses flags that would have no effect together."""
    context = click.get_current_context()
    given = {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if parameter.name is not None
        and context.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
    }
    if trace is None and "memory" in given:
        raise click.UsageError("--memory names sizes for --trace; give it a trace.")
    if trace is not None:
        wrong = [given[name] for name in _ONLY_LIVE if name in given]
        if wrong:
            raise click.UsageError(f"{wrong[0]} measures a live instance; --trace replays a file.")
    if "workload" in given and "write_share" in given:
        raise click.UsageError("--workload has its own share of writes; leave out --write-share.")


def _measure(
    *,
    workload: str | None,
    write_share: float,
    picture: Path | None,
    as_json: bool,
    memory: Sequence[int],  # noqa: ARG001 (refused already)
    **flags: Any,
) -> bool:
    """Measures the live instance; returns whether Ctrl-C ended it."""
    from kvserve.bench import processes  # not above: --help needs no processes
    from kvserve.bench.driver import Load
    from kvserve.cli import bench_report

    load = Load(
        **flags,
        workload_name=workload.upper() if workload else "uniform",
        workload=operations.YCSB[workload.upper()] if workload else operations.mix(write_share),
        prefix=f"bench-{secrets.token_hex(4)}:",
    )
    with _progress("measuring", load.seconds) as show:
        measured, interrupted = processes.run(load, show)
    found = bench_report.of_load(load, measured, interrupted)
    _write(found, as_json, bench_report.print_load)
    if picture is not None:
        _plot_latencies(picture, found, measured)
    return interrupted


def _plot_latencies(picture: Path, found: dict[str, Any], measured: Sequence[Measured]) -> None:
    from kvserve.bench import samples
    from kvserve.cli import bench_report

    kinds = {
        kind: samples.merge([part.samples[kind] for part in measured]) for kind in samples.KINDS
    }
    drawn = {kind: latencies_ns for kind, latencies_ns in kinds.items() if latencies_ns}
    plot.latencies(picture, bench_report.title_of_load(found), drawn)


def _replay(
    trace: str,
    *,
    memory: Sequence[int],
    value_size: int,
    picture: Path | None,
    as_json: bool,
    name: str | None,
    timeout: float,
    **_flags: Any,
) -> bool:
    """Replays a trace; returns whether Ctrl-C ended it."""
    from kvserve.bench import replay, survey
    from kvserve.bench.trace import opened
    from kvserve.cli import bench_report

    with opened(trace) as requests:
        with _progress("reading", requests.size_bytes) as show:
            found = survey.survey(requests, value_size, show)
        sizes = survey.choose(found, memory, _live_memory_bytes(name, timeout))
        for size_bytes in sizes.left_out_bytes:
            click.echo(
                f"kvserve: left out {format_size(size_bytes)}: this machine has not so much "
                "memory left",
                err=True,
            )
        with _progress("replaying", requests.size_bytes) as show:
            replayed = replay.replay(requests, found, sizes, show)
    result = bench_report.of_replay(requests.name, found, sizes, replayed)
    _write(result, as_json, bench_report.print_replay)
    if picture is not None and not replayed.gets:
        click.echo(f"kvserve: {picture} is not drawn: no gets, so no hit ratio", err=True)
    elif picture is not None:
        points = [(size["memory_bytes"], size["hit_ratio"]) for size in result["sizes"]]
        title = f"{Path(requests.name).name}, {replayed.gets:,} gets"
        plot.hit_ratios(picture, title, points, sizes.live_bytes)
    return replayed.interrupted


def _live_memory_bytes(name: str | None, timeout: float) -> int | None:
    """The memory of the instance, if it runs, to be marked among the sizes."""
    try:
        with connect(name, timeout) as cache:
            memory_bytes: int = cache.stats()["memory_bytes"]
            return memory_bytes
    except ServerError:
        return None


def _write(
    found: dict[str, Any], as_json: bool, print_table: Callable[[dict[str, Any]], None]
) -> None:
    """Prints what was found at once: it must be written even if drawing it fails."""
    from kvserve.cli import bench_report

    if as_json:
        output.write_json(found)
    elif output.on_terminal():
        print_table(found)
    else:
        bench_report.write_lines(found)
    sys.stdout.flush()


@contextmanager
def _progress(verb: str, total: float) -> Iterator[Callable[[float], None]]:
    """A bar on standard error while a person watches; it draws itself without a thread.

    Yields:
        A function to call with how much of the total is done.
    """
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console  # not above: only the bar needs it
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(verb), BarColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, auto_refresh=False
    ) as progress:
        task = progress.add_task("", total=total)

        def show(done: float) -> None:
            progress.update(task, completed=done, refresh=True)

        yield show
