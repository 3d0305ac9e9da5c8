"""The commands on keys: get set add replace delete incr decr touch ttl keys flush."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable
from itertools import islice
from typing import Any

import click

import kvserve
from kvserve.cli import output
from kvserve.cli.main import REFUSED
from kvserve.cli.options import (
    client_options,
    connect,
    json_option,
    key_argument,
    keys_argument,
    parse_key,
    ttl_option,
)

VALUE_TYPES = ("text", "bytes", "int", "json")


@click.command("get")
@keys_argument
@json_option
@client_options
def get_command(
    keys: tuple[str | bytes, ...], as_json: bool, name: str | None, timeout: float
) -> None:
    """Print the value of a key, or of several.

    Text and bytes are printed as they were stored, with a newline added only on a terminal. Any
    other value is printed as JSON: a datetime as ISO 8601 text, bytes inside as
    {"$base64": "..."}.

    Of several keys, those found are printed as "key<TAB>value" lines. With --json, one key
    gives an object with its value, version and ttl (null: never expires), several give an
    object of keys and values.

    Exits with 1 if a key is missing.

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
        output.write(output.value_bytes(value) + (b"\n" if output.on_terminal() else b""))
    return True


def _print_several(cache: kvserve.Client, keys: tuple[str | bytes, ...], as_json: bool) -> bool:
    found = cache.get_many(keys)
    if as_json:
        output.write_json(found)
    else:
        for key in keys:
            if key in found:
                value = output.value_bytes(found[key])
                output.write(output.key_bytes(key) + b"\t" + value + b"\n")
    missing = len(set(keys) - set(found))
    if missing:
        output.say(f"{missing} of {len(set(keys))} keys are missing")
    return not missing


def _storing_command(verb: str, help_text: str) -> click.Command:
    """`set`, `add` and `replace`, which differ in the client's method and in their help."""

    @click.command(verb, help=help_text)
    @key_argument
    @click.argument("value")
    @click.option(
        "--type",
        "value_type",
        type=click.Choice(VALUE_TYPES),
        help="Store VALUE as this.  [default: text; bytes from standard input]",
    )
    @ttl_option
    @client_options
    def command(
        key: str | bytes,
        value: str,
        value_type: str | None,
        ttl: float | None,
        name: str | None,
        timeout: float,
    ) -> None:
        parsed = _parse_value(value, value_type)
        with connect(name, timeout) as cache:
            answer = getattr(cache, verb)(key, parsed, ttl=ttl)
        if answer is False:
            output.say("the key exists" if verb == "add" else "no such key")
            raise click.exceptions.Exit(REFUSED)

    return command


_VALUE_HELP = """
    VALUE is stored as text, unless --type says otherwise: "int" makes a counter for incr and
    decr, "json" stores what the JSON means. With VALUE "-" standard input is stored, as bytes
    unless --type says otherwise. Before a value that begins with "-" write "--".
"""

set_command = _storing_command(
    "set",
    f"""Store a value under a key.
    {_VALUE_HELP}
    \b
    Example:
      $ kvserve set greeting hello --ttl 60
      $ kvserve set page - < page.html
      $ kvserve set user:1 --type json '{{"name": "Ada"}}'
      $ kvserve set degrees --type int -- -5
    """,
)
add_command = _storing_command(
    "add",
    f"""Store a value if the key is missing; exit with 1 if it exists.
    {_VALUE_HELP}
    \b
    Example:
      $ kvserve add nightly-job "$HOSTNAME" --ttl 3600 && ./nightly-job
    """,
)
replace_command = _storing_command(
    "replace",
    f"""Store a value if the key exists; exit with 1 if it is missing.
    {_VALUE_HELP}
    \b
    Example:
      $ kvserve replace greeting goodbye --ttl 60
    """,
)


def _parse_value(text: str, value_type: str | None) -> Any:
    """The value that an argument, or standard input for `-`, stands for."""
    if text == "-":
        data = sys.stdin.buffer.read()
        if value_type in (None, "bytes"):
            return data
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise click.BadParameter(
                f"standard input is not UTF-8: {error}", param_hint="VALUE"
            ) from None
    if value_type == "bytes":
        return os.fsencode(text)
    if value_type == "int":
        try:
            return int(text)
        except ValueError:
            raise click.BadParameter(
                f"{text!r} is not a whole number", param_hint="VALUE"
            ) from None
    if value_type == "json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise click.BadParameter(f"not JSON: {error}", param_hint="VALUE") from None
    return text


@click.command("delete")
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
    """`incr` and `decr`, which differ in the client's method and in their help."""

    # A DELTA may be negative; an option mistyped is still refused, as it is no number.
    @click.command(verb, help=help_text, context_settings={"ignore_unknown_options": True})
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


@click.command("touch")
@key_argument
@ttl_option
@client_options
def touch_command(key: str | bytes, ttl: float | None, name: str | None, timeout: float) -> None:
    """Give a key a new time to live.

    Without --ttl it never expires any more. Exits with 1 if the key is missing.

    \b
    Example:
      $ kvserve touch session:42 --ttl 1800
    """
    with connect(name, timeout) as cache:
        touched = cache.touch(key, ttl=ttl)
    if not touched:
        output.say("no such key")
        raise click.exceptions.Exit(REFUSED)


@click.command("ttl")
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
    """Seconds, rounded to the table's milliseconds; null for what never expires."""
    if ttl is None:  # it expired since it was read
        return 0.0
    return None if math.isinf(ttl) else round(ttl, 3)


@click.command("keys")
@click.argument("prefix", type=parse_key, default="")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Print at most N keys.")
@json_option
@client_options
def keys_command(
    prefix: str | bytes, limit: int | None, as_json: bool, name: str | None, timeout: float
) -> None:
    """Print the keys that begin with PREFIX, one a line, in no order.

    A key that is there all the while is printed; one that comes or goes meanwhile may be, and
    a key may be printed twice. A key with a newline in it takes two lines: use --json there.

    \b
    Example:
      $ kvserve keys user: --limit 2
      user:17
      user:4
      $ kvserve keys session: | xargs -d '\\n' kvserve delete
    """
    with connect(name, timeout) as cache:
        keys = islice(cache.scan(prefix), limit)
        if as_json:
            _print_array(map(output.key_json, keys))
        else:
            for key in keys:
                output.write(output.key_bytes(key) + b"\n")


def _print_array(items: Iterable[Any]) -> None:
    """An array of JSON, an item a line, written as the items come."""
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
