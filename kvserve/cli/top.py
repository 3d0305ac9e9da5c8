"""The command that shows an instance's rates again and again: top. See top_view for the tables."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

import kvserve
from kvserve import names
from kvserve.cli import output
from kvserve.cli.options import NumberRange, client_options, connect, json_option
from kvserve.errors import ServerError
from kvserve.stats.rates import between

_QUITS = b"qQ\x03\x04"  # and Ctrl-C and Ctrl-D, if they arrive as keys

Wait = Callable[[float], bool]


@click.command("top")
@click.option(
    "--interval",
    type=NumberRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to count for each picture.",
)
@click.option("--once", is_flag=True, help="Show one interval and end.")
@json_option
@client_options
def top_command(
    interval: float, once: bool, as_json: bool, name: str | None, timeout: float
) -> None:
    """Show what the server does: operations, hit ratio, latency, memory, workers.

    On a terminal the picture changes after each interval; q or Ctrl-C ends it. With --json each
    interval is an object on a line. Where there is no terminal it shows one interval and ends.

    While there is no server it says so and waits for one; with --once it exits with 3.

    \b
    Example:
      $ kvserve top
      $ kvserve top --once --json | jq .hit_ratio
      0.9812
    """
    instance = names.instance(name).name

    def look() -> kvserve.Client:
        return connect(instance, timeout)

    try:
        if once or not (as_json or output.on_terminal()):
            _show_once(intervals(look, interval, _sleep), as_json)
        elif as_json:
            for found in intervals(look, interval, _sleep):
                if found is not None:
                    output.write_json(
                        {"name": instance, "error": str(found)}
                        if isinstance(found, ServerError)
                        else found
                    )
                    sys.stdout.flush()
        else:
            _show(instance, look, interval)
    except KeyboardInterrupt:
        pass  # the usual way to end it


def intervals(
    look: Callable[[], kvserve.Client], interval: float, wait: Wait
) -> Iterator[dict[str, Any] | ServerError | None]:
    """What `between` returns for each interval.

    Args:
        look: connects a client.
        interval: in seconds.
        wait: waits for so many seconds; returns whether to end instead.

    Yields:
        The rates; None while the first interval lasts; the error while no server answers.
    """
    cache: kvserve.Client | None = None
    before: tuple[float, dict[str, Any]] | None = None
    try:
        while True:
            try:
                cache = cache or look()
                after = (time.monotonic(), cache.stats())
            except ServerError as error:
                if cache is not None:
                    cache.close()
                cache = before = None
                yield error
            else:
                first, before = before, after
                yield between(first[1], after[1], after[0] - first[0]) if first else None
            if wait(interval):
                return
    finally:
        if cache is not None:
            cache.close()


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _show_once(found: Iterator[dict[str, Any] | ServerError | None], as_json: bool) -> None:
    for rates in found:
        if isinstance(rates, ServerError):
            raise rates
        if rates is None:
            continue
        if as_json:
            output.write_json(rates)
        else:
            from rich.console import Console  # not above: it is slow to import

            from kvserve.cli.top_view import picture

            Console(highlight=False).print(picture(rates))
        return


def _show(instance: str, look: Callable[[], kvserve.Client], interval: float) -> None:
    """Shows pictures on the terminal until the user quits."""
    from rich.live import Live  # not above: it is slow to import

    from kvserve.cli.top_view import picture, waiting

    with _keys() as wait, Live(screen=True, auto_refresh=False) as live:
        for found in intervals(look, interval, wait):
            if isinstance(found, dict):
                live.update(picture(found), refresh=True)
            else:
                live.update(waiting(instance, found), refresh=True)


@contextmanager
def _keys() -> Iterator[Wait]:
    """Yields a function that waits for a time, or for the key that quits if there is a keyboard."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    descriptor = sys.stdin.fileno()
    former = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)  # a key comes at once and is not shown
    try:
        yield lambda seconds: _quits_within(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, former)


def _quits_within(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            keys = os.read(descriptor, 1024)
            if not keys or any(key in _QUITS for key in keys):
                return True
    return False
