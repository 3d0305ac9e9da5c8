"""The options and arguments that several commands share, and the client made from them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import click

import kvserve
from kvserve.cli.output import parse_key
from kvserve.limits import TIMEOUT_SECONDS_DEFAULT

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


_NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class KeyCommand(click.Command):
    """A command on keys: a negative number among its arguments is not taken for an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, self._numbers_behind_dashes(args))
        except click.NoSuchOption as error:
            if error.possibilities:  # a misspelt option
                raise
            hint = "Before a key or value that begins with a dash write --."
            raise click.UsageError(f"{error.format_message()} {hint}", ctx) from None

    def _numbers_behind_dashes(self, args: list[str]) -> list[str]:
        """The same command line, its arguments after a `--` if one of them is such a number."""
        options = [option for option in self.params if isinstance(option, click.Option)]
        with_value = {name for option in options if not option.is_flag for name in option.opts}
        flags = {name for option in options if option.is_flag for name in option.opts}  # -0 is one
        found: list[str] = []
        arguments: list[str] = []
        rest = iter(args)
        for word in rest:
            if word == "--":
                arguments += rest
            elif word in flags:
                found.append(word)
            elif word == "-" or not word.startswith("-") or _NEGATIVE_NUMBER.fullmatch(word):
                arguments.append(word)
            else:
                found.append(word)
                if word in with_value:
                    value = next(rest, None)
                    if value is None:
                        raise click.BadOptionUsage(word, f"Option {word!r} requires an argument.")
                    found.append(value)
        if not any(map(_NEGATIVE_NUMBER.fullmatch, arguments)):
            return args
        return [*found, "--", *arguments]


class NumberRange(click.FloatRange):
    """A range of numbers that refuses `nan`, which click accepts since no comparison holds."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


name_option: Decorator = click.option(
    "--name",
    envvar="KVSERVE_NAME",
    show_envvar=True,
    metavar="NAME",
    help="The instance's name.  [default: default]",
)
timeout_option: Decorator = click.option(
    "--timeout",
    type=float,
    default=TIMEOUT_SECONDS_DEFAULT,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the server's answer.",
)
json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of text."
)
ttl_option: Decorator = click.option(
    "--ttl", type=float, metavar="SECONDS", help="Time to live.  [default: never expires]"
)
key_argument: Decorator = click.argument("key", type=parse_key)
keys_argument: Decorator = click.argument(
    "keys", metavar="KEY...", type=parse_key, nargs=-1, required=True
)


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that talks to a server: --name and --timeout."""
    return name_option(timeout_option(command))


def connect(name: str | None, timeout: float, **options: Any) -> kvserve.Client:
    """A client of the instance; `timeout` in seconds, `options` as `kvserve.connect` has them."""
    return kvserve.connect(name, timeout=timeout, **options)
