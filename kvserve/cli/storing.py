"""The commands that store a value: set add replace."""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn

import click

from kvserve.cli import output
from kvserve.cli.exits import REFUSED
from kvserve.cli.options import KeyCommand, client_options, connect, key_argument, ttl_option
from kvserve.cli.output import parse_key
from kvserve.limits import COUNTER_MAX, COUNTER_MIN

VALUE_TYPES = ("text", "bytes", "int", "json")
_SHOWN_CHARACTERS = 80  # of a value that is no number


def _storing_command(verb: str, help_text: str) -> click.Command:
    """`set`, `add` or `replace`, which differ in the client's method and in their help."""

    @click.command(verb, cls=KeyCommand, help=help_text)
    @key_argument
    @click.argument("value", type=parse_key)
    @click.option(
        "--type",
        "value_type",
        type=click.Choice(VALUE_TYPES),
        help="Store VALUE as this.  [default: text; bytes from standard input, or if not UTF-8]",
    )
    @ttl_option
    @client_options
    def command(
        key: str | bytes,
        value: str | bytes,
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
    VALUE is stored as text, or as bytes if it is not UTF-8, unless --type says otherwise: "int"
    makes a counter for incr and decr, "json" stores what the JSON means. With VALUE "-" standard
    input is stored, as bytes unless --type says otherwise. Before a key or value that begins with
    "-" and is no number, write "--".
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
      $ kvserve set degrees -5 --type int
      $ kvserve set -- flags --verbose
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


def _parse_value(given: str | bytes, value_type: str | None) -> Any:
    """The value that an argument, or standard input for `-`, stands for.

    Args:
        given: as `parse_key` returns it.
        value_type: one of VALUE_TYPES, or None.
    """
    source = "it"
    if given == "-":
        source, given = "standard input", sys.stdin.buffer.read()
        value_type = value_type or "bytes"
    if value_type is None:
        return given
    if value_type == "bytes":
        return given if isinstance(given, bytes) else given.encode()
    try:
        text = given if isinstance(given, str) else given.decode()
    except UnicodeDecodeError as error:
        raise _bad(f"{source} is not UTF-8: {error}") from None
    if value_type == "text":
        return text
    if value_type == "int":
        return _parse_counter(text)
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _bad("this JSON is nested too deep") from None
    except ValueError as error:
        raise _bad(f"not JSON: {error}") from None


def _bad(text: str) -> click.BadParameter:
    return click.BadParameter(text, param_hint="VALUE")


def _parse_counter(text: str) -> int:
    """A number that incr and decr take."""
    try:
        number = int(text)
    except ValueError:
        raise _bad(f"{text[:_SHOWN_CHARACTERS]!r} is not a whole number") from None
    if not COUNTER_MIN <= number <= COUNTER_MAX:
        raise _bad(
            f"{text[:_SHOWN_CHARACTERS]} is no counter, which has 64 bits and a sign; "
            "store it as text"
        )
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")
