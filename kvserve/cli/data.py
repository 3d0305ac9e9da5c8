"""The commands on keys, except those that store: get delete incr decr touch ttl keys flush."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from itertools import islice
from typing import Any

import click

import kvserve
from kvserve.cli import output
from kvserve.cli.exits import REFUSED
from kvserve.cli.options import (
    KeyCommand,
    client_options,
    connect,
    json_option,
    key_argument,
    keys_argument,
    ttl_option,
)
from kvserve.cli.output import parse_key


@click.command("get", cls=KeyCommand)
@keys_argument
@json_option
@client_options
def get_command(
    keys: tuple[str | bytes, ...], as_json: bool, name: str | None, timeout: float
) -> None:
    """Print the value of a key, or of several.

    Text and bytes are printed as they were stored, with a newline added only on a terminal. Any
    other value is printed as JSON: a datetime as ISO 8601 text, bytes inside as
    {"$base64": "..."}, a float that is no number of JSON's as {"$float": "NaN"}, "Infinity" or
    "-Infinity", an array as {"$array": {"dtype": ..., "shape": [...], "base64": ...}}. What an
    application's own codec has encoded cannot be read here. On a terminal control characters are
    printed as escapes such as \\x1b.

    Of several keys, those found are printed as "key<TAB>value" lines, in which control characters
    are printed as escapes, so that each takes one line. With --json, one key
    gives an object with its value, version and ttl (null: never expires), several give an
    object of keys and values.

    Exits with 1 if a key is missing, and with 65 if what it holds cannot be read; of several
    keys, such a one counts as missing.

    \b
    Example:
      $ kvserve get page > page.html
      $ kvserve get user:1 user:2 --json
      {"user:1": {"name": "Ada"}, "user:2": "Bob"}
    """
    with connect(name, timeout) as cache:
        if len(keys) == 1:
            found = _print_one(cache, keys[0], as_json)
        else:
            found = _print_several(cache, keys, as_json)
    if not found:
        raise click.exceptions.Exit(REFUSED)


def _print_one(cache: kvserve.Client, key: str | bytes, as_json: bool) -> bool:
    value, version = cache.gets(key)
    if version is None:
        output.say("no such key")
        return False
    if as_json:
        ttl = _ttl_for_json(cache.ttl(key))
        output.write_json(
            {"key": output.key_json(key), "value": value, "version": version, "ttl": ttl}
        )
    else:
        output.write_value(value)
    return True


def _print_several(cache: kvserve.Client, keys: tuple[str | bytes, ...], as_json: bool) -> bool:
    found = cache.get_many(keys)
    if as_json:
        output.write_json(found)
    else:
        for key in keys:
            if key in found:
                output.write_line(key, output.value_bytes(found[key]))
    missing = len(set(keys) - set(found))
    if missing:
        output.say(f"{missing} of {len(set(keys))} keys are missing")
    return not missing


@click.command("delete", cls=KeyCommand)
@keys_argument
@json_option
@client_options
def delete_command(
    keys: tuple[str | bytes, ...], as_json: bool, name: str | None, timeout: float
) -> None:
    """Delete keys and print how many there were.

    Exits with 1 if there was none.

    \b
    Example:
      $ kvserve delete user:1 user:2
      2
    """
    with connect(name, timeout) as cache:
        deleted = cache.delete_many(keys)
    if as_json:
        output.write_json({"deleted": deleted})
    else:
        output.write_line(str(deleted))
    if not deleted:
        raise click.exceptions.Exit(REFUSED)


def _counting_command(verb: str, help_text: str) -> click.Command:
    """`incr` or `decr`, which differ in the client's method and in their help."""

    @click.command(verb, cls=KeyCommand, help=help_text)
    @key_argument
    @click.argument("delta", type=int, default=1)
    @click.option(
        "--initial",
        type=int,
        default=0,
        show_default=True,
        metavar="N",
        help="What a missing counter starts from.",
    )
    @click.option("--ttl", type=float, metavar="SECONDS", help="Time to live of a new counter.")
    @json_option
    @client_options
    def command(
        key: str | bytes,
        delta: int,
        initial: int,
        ttl: float | None,
        as_json: bool,
        name: str | None,
        timeout: float,
    ) -> None:
        with connect(name, timeout) as cache:
            value = getattr(cache, verb)(key, delta, initial=initial, ttl=ttl)
        if as_json:
            output.write_json({"key": output.key_json(key), "value": value})
        else:
            output.write_line(str(value))

    return command


incr_command = _counting_command(
    "incr",
    """Add DELTA (1) to a counter and print its new value.

    A missing counter starts from --initial and gets --ttl; an existing one keeps its time to
    live.

    \b
    Example:
      $ kvserve incr visits
      1
      $ kvserve incr visits 5
      6
    """,
)
decr_command = _counting_command(
    "decr",
    """Subtract DELTA (1) from a counter and print its new value.

    A missing counter starts from --initial and gets --ttl; an existing one keeps its time to
    live.

    \b
    Example:
      $ kvserve decr tickets --initial 100
      99
    """,
)


@click.command("touch", cls=KeyCommand)
@key_argument
@ttl_option
@client_options
def touch_command(key: str | bytes, ttl: float | None, name: str | None, timeout: float) -> None:
    """Give a key a new time to live.

    Without --ttl it never expires any more, whatever the server's default_ttl. Exits with 1 if
    the key is missing.

    \b
    Example:
      $ kvserve touch session:42 --ttl 1800
    """
    with connect(name, timeout) as cache:
        touched = cache.touch(key, ttl=ttl)
    if not touched:
        output.say("no such key")
        raise click.exceptions.Exit(REFUSED)


@click.command("ttl", cls=KeyCommand)
@key_argument
@json_option
@client_options
def ttl_command(key: str | bytes, as_json: bool, name: str | None, timeout: float) -> None:
    """Print how many seconds a key has left, or "never".

    Exits with 1 if the key is missing.

    \b
    Example:
      $ kvserve ttl session:42
      1799.204
      $ kvserve ttl greeting
      never
    """
    with connect(name, timeout) as cache:
        ttl = cache.ttl(key)
    if ttl is None:
        output.say("no such key")
        raise click.exceptions.Exit(REFUSED)
    if as_json:
        output.write_json({"key": output.key_json(key), "ttl": _ttl_for_json(ttl)})
    else:
        output.write_line("never" if math.isinf(ttl) else f"{ttl:.3f}")


def _ttl_for_json(ttl: float | None) -> float | None:
    """Seconds, rounded to the table's milliseconds; null for a key that never expires."""
    if ttl is None:  # it expired since it was read
        return 0.0
    return None if math.isinf(ttl) else round(ttl, 3)


@click.command("keys", cls=KeyCommand)
@click.argument("prefix", type=parse_key, default="")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Print at most N keys.")
@click.option("-0", "--null", is_flag=True, help="End each key with a NUL, and escape nothing.")
@json_option
@client_options
def keys_command(
    prefix: str | bytes,
    limit: int | None,
    null: bool,
    as_json: bool,
    name: str | None,
    timeout: float,
) -> None:
    """Print the keys that begin with PREFIX, one a line, in no order.

    A key that is there all the while is printed; one that comes or goes meanwhile may be, and
    a key may be printed twice. Control characters, a newline for one, are printed as escapes
    such as \\n, so that a key takes one line: for keys as they are use --null or --json.

    \b
    Example:
      $ kvserve keys user: --limit 2
      user:17
      user:4
      $ kvserve keys session: --null | xargs -0 kvserve delete --
    """
    if null and as_json:
        raise click.UsageError("Use one of --json and --null.")
    with connect(name, timeout) as cache:
        keys = islice(cache.scan(prefix), None if limit is None else min(limit, sys.maxsize))
        if as_json:
            _print_array(map(output.key_json, keys))
        elif null:
            for key in keys:
                _print_with_null(output.key_bytes(key))
        else:
            for key in keys:
                output.write(output.line_bytes(key) + b"\n")


def _print_with_null(key: bytes) -> None:
    # A key that contains a NUL, which no argument can hold, must not look like two keys.
    output.write((key if b"\0" not in key else output.line_bytes(key)) + b"\0")


def _print_array(items: Iterable[Any]) -> None:
    """Writes an array of JSON, one item a line, as the items come."""
    separator = "["
    for item in items:
        output.write(f"{separator}{output.json_text(item)}".encode())
        separator = ",\n "
    output.write_line("[]" if separator == "[" else "]")


@click.command("flush")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_options
def flush_command(yes: bool, name: str | None, timeout: float) -> None:
    """Delete every key of the instance.

    On a terminal it asks first, unless --yes is given.

    \b
    Example:
      $ kvserve flush --name sessions --yes
    """
    with connect(name, timeout) as cache:
        if not yes and sys.stdin.isatty():
            question = f"Delete every key of instance {name or 'default'!r}?"
            if not click.confirm(question, err=True):
                raise click.exceptions.Exit(REFUSED)
        cache.flush()
