"""The commands that copy a cache out of a server and into one: dump load."""

from __future__ import annotations

import os
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import click

from kvserve import names
from kvserve.cli import output
from kvserve.cli.exits import REFUSED, USAGE
from kvserve.cli.options import client_options, connect, json_option
from kvserve.cli.output import parse_key
from kvserve.client.admin import dump
from kvserve.client.admin.dump import Tally
from kvserve.protocol.dump import DumpReader, DumpWriter, Header, Item

_PIECE_BYTES = 256 * 1024
_ITEMS_A_STEP = 256  # of the progress bar; a step costs as much as an item

Advance = Callable[[int], None]


@click.command("dump")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@click.option("--prefix", type=parse_key, default="", help="Only the keys that begin with this.")
@client_options
def dump_command(file: str, prefix: str | bytes, name: str | None, timeout: float) -> None:
    """Write all keys and values to FILE, or to standard output.

    Times to live, types and counters are kept. It is no snapshot: what changes meanwhile is
    dumped as it was or as it is. A FILE that exists is replaced when all is written. The format
    is described in docs/dump-format.md.

    \b
    Example:
      $ kvserve dump cache.dump
      $ kvserve dump --prefix user: | zstd > users.zst
    """
    if file == "-" and output.on_terminal():
        raise click.UsageError("A dump is no text; write it to a file: kvserve dump FILE")
    with connect(name, timeout) as cache, _target(file) as target:
        count = None if prefix else cache.stats()["items"]
        writer = DumpWriter(secrets.randbits(32))
        target.write(writer.header(Header(names.instance(name).name, int(time.time() * 1000))))
        with _progress("dumping", "items", count) as advance:
            for number, item in enumerate(dump.dump(cache, prefix), 1):
                target.write(writer.item(item))
                if number % _ITEMS_A_STEP == 0:
                    advance(_ITEMS_A_STEP)
        target.write(writer.trailer())


@contextmanager
def _target(file: str) -> Iterator[IO[bytes]]:
    """Where a dump goes. A file gets its name once complete, and only its owner may read it."""
    if file == "-":
        yield sys.stdout.buffer
        return
    path = Path(file).resolve()
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):  # a device or a FIFO
            with path.open("wb") as target:
                yield target
            return
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", delete=False) as new:
        try:
            yield new
            new.flush()
            os.fsync(new.fileno())
            Path(new.name).replace(path)
        except BaseException:
            Path(new.name).unlink()
            raise


@click.command("load")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), default="-")
@click.option("--keep", is_flag=True, help="Leave keys that exist as they are.")
@json_option
@client_options
def load_command(file: str, keep: bool, as_json: bool, name: str | None, timeout: float) -> None:
    """Store what `kvserve dump` wrote, from FILE or from standard input.

    A key that exists gets the dumped value, unless --keep is given; keys that are not in the
    dump stay. What has expired since is left out. Damaged records are skipped, and what the
    server refuses, such as a value too large for it, or bytes that are no value, is left out;
    the rest is loaded.

    Exits with 1 if a record was damaged or refused, and with 2 if it is no dump or was cut short.

    \b
    Example:
      $ kvserve load cache.dump
      loaded 51200, skipped 0 bad records, 12 expired
      $ zstd -dc users.zst | kvserve load --keep
    """
    if file == "-" and sys.stdin.isatty():
        raise click.UsageError("A dump cannot be typed; load it from a file: kvserve load FILE")
    reader = DumpReader()
    tally = Tally()
    with connect(name, timeout) as cache, _source(file) as (source, size_bytes):
        try:
            with _progress("loading", "bytes", size_bytes) as advance:
                dump.load(cache, _items(source, reader, advance), keep=keep, tally=tally)
        except BaseException:
            if tally.loaded:
                _report(reader, tally, as_json)
            raise
    _report(reader, tally, as_json)
    if not reader.is_whole:
        raise click.exceptions.Exit(USAGE)
    if reader.skipped or tally.refused:
        raise click.exceptions.Exit(REFUSED)


@contextmanager
def _source(file: str) -> Iterator[tuple[IO[bytes], int | None]]:
    """Where a dump comes from, and its size in bytes if that is known."""
    if file == "-":
        yield sys.stdin.buffer, _size_bytes(sys.stdin.buffer)
    else:
        with Path(file).open("rb") as source:
            yield source, _size_bytes(source)


def _size_bytes(source: IO[bytes]) -> int | None:
    status = os.fstat(source.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _items(source: IO[bytes], reader: DumpReader, advance: Advance) -> Iterator[Item]:
    while piece := source.read(_PIECE_BYTES):
        yield from reader.feed(piece)
        advance(len(piece))
    yield from reader.finish()


def _report(reader: DumpReader, tally: Tally, as_json: bool) -> None:
    if as_json:
        output.write_json(
            {
                "loaded": tally.loaded,
                "skipped": reader.skipped,
                "expired": tally.expired,
                "kept": tally.kept,
                "refused": tally.refused,
                "first_refusal": tally.first_refusal or None,
                "complete": reader.is_whole,
            }
        )
        return
    records = "record" if reader.skipped == 1 else "records"
    text = f"loaded {tally.loaded}, skipped {reader.skipped} bad {records}, {tally.expired} expired"
    if tally.kept:
        text += f", {tally.kept} kept as they were"
    if tally.refused:
        text += f", {tally.refused} refused (the first one {tally.first_refusal})"
    if not reader.is_whole:
        text += "; the dump was cut short"
    output.write_line(text)


@contextmanager
def _progress(verb: str, unit: str, total: int | None) -> Iterator[Advance]:
    """A progress bar on standard error if that is a terminal, else nothing.

    Yields:
        A function to call with how much more is done, in `unit`.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import progress  # not above: it is slow to import
    from rich.console import Console

    amount: list[progress.ProgressColumn] = [progress.DownloadColumn()]
    if unit == "items":
        amount = [progress.MofNCompleteColumn(), progress.TextColumn("items")]
    columns = [progress.TextColumn(verb), progress.BarColumn(), *amount]
    bar = progress.Progress(
        *columns, progress.TimeElapsedColumn(), console=Console(stderr=True), transient=True
    )
    with bar:
        task = bar.add_task(verb, total=total)
        yield lambda more: bar.advance(task, more)
