"""The command that prints the changes of the cache: watch."""

from __future__ import annotations

import datetime
import select
import sys
import time

import click

from kvserve import names as naming
from kvserve.cli import output
from kvserve.cli.options import KeyCommand, json_option, name_option
from kvserve.cli.output import parse_key
from kvserve.client.feed import open_watcher
from kvserve.live.feed import Event, Pace, Since


@click.command("watch", cls=KeyCommand)
@click.argument("prefix", type=parse_key, default="")
@click.option(
    "--since",
    type=click.Choice(("now", "oldest")),
    default="now",
    show_default=True,
    help="Begin with what comes, or with what the server still holds of the past.",
)
@json_option
@name_option
def watch_command(prefix: str | bytes, since: Since, as_json: bool, name: str | None) -> None:
    """Print the changes of keys that begin with PREFIX, as they happen, until interrupted.

    A line has the time, what happened, the key's version (see `kvserve get --json`) and the key,
    whose control characters are printed as escapes such as \\n.
    It happens that a key is set (add, replace and incr are sets, too), touched, deleted, that it
    expires, or is evicted to make room; that all is flushed; and that events are lost, because
    this command was too slow, or the server was killed or restarted, which does not end it.

    With --json, a line is an object with time (Unix time in seconds), kind, key and version. For
    lost events it has how many in "lost", where 0 means an unknown number.

    \b
    Example:
      $ kvserve watch user:
      2025-11-21T09:30:00.125+00:00 set 17 user:1
      2025-11-21T09:30:04.006+00:00 expire 17 user:1
      $ kvserve watch --json | jq -r 'select(.kind == "evict").key'
    """
    watcher = open_watcher(naming.instance(name), prefix, since)
    pace = Pace()
    show = _as_json if as_json else _as_text
    try:
        while True:
            events = watcher.read()
            for event in events:
                output.write(show(event) + b"\n")
            sys.stdout.flush()
            if not events:
                _raise_if_unread()
            time.sleep(pace.after(len(events)))
    finally:
        watcher.close()


def _raise_if_unread() -> None:
    """Raises BrokenPipeError, as a write would, if the reader is gone.

    In `watch | head -1` there may be no further write.
    """
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if any(flags & select.POLLERR for _, flags in poll.poll(0)):
        raise BrokenPipeError


def _as_text(event: Event) -> bytes:
    at = datetime.datetime.fromtimestamp(event.time).astimezone()
    line = f"{at.isoformat(timespec='milliseconds')} {event.kind}".encode()
    if event.key is not None:
        return line + f" {event.version} ".encode() + output.line_bytes(event.key)
    if event.kind == "lost":
        line += f" {event.lost or 'perhaps some'}".encode()
    return line


def _as_json(event: Event) -> bytes:
    row: dict[str, object] = {"time": event.time, "kind": event.kind}
    if event.key is not None:
        row |= {"key": output.key_json(event.key), "version": event.version}
    if event.kind == "lost":
        row["lost"] = event.lost
    return output.json_text(row).encode()
