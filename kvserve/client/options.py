"""What a client was told when it was made: one object, checked once, for every kind of client."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from kvserve.client.calls.rules import Lifetimes, LongKeys, Rules, TooLarge
from kvserve.client.follower import Read
from kvserve.client.values import NATIVE, Values, compressing, with_own
from kvserve.errors import InvalidArgument
from kvserve.limits import TIMEOUT_SECONDS_DEFAULT, TIMEOUT_SECONDS_MAX
from kvserve.protocol.own import Codec

Write = Literal["worker", "direct"]
OnError = Literal["raise", "miss"]
# Whether to start a server, and with which settings; or the path of a configuration file.
Start = bool | Mapping[str, Any] | str | os.PathLike[str]


class Arguments(TypedDict, total=False):
    """The arguments of `kvserve.connect`, for type checkers."""

    timeout: float
    read: Read
    write: Write
    queue_bytes: int | None
    codec: Codec | None
    compress: int | None
    lazy: bool
    wait: float
    start: Start
    on_error: OnError
    long_keys: LongKeys
    too_large: TooLarge
    lifetimes: Lifetimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The arguments of `kvserve.connect`, which describes each.

    Raises:
        InvalidArgument: one is out of its range, or two do not go together.

    Example:
        >>> Options(timeout=1).timeout
        1.0
    """

    timeout: float = TIMEOUT_SECONDS_DEFAULT
    read: Read = "direct"
    write: Write = "worker"
    queue_bytes: int | None = None
    codec: Codec | None = None
    compress: int | None = None
    lazy: bool = False
    wait: float = 0.0
    start: Start = False
    on_error: OnError = "raise"
    long_keys: LongKeys = "refuse"
    too_large: TooLarge = "keep"
    lifetimes: Lifetimes = "strict"

    @property
    def rules(self) -> Rules:
        """What is done with what does not fit."""
        return Rules(long_keys=self.long_keys, too_large=self.too_large, lifetimes=self.lifetimes)

    @staticmethod
    def of(arguments: Arguments) -> Options:
        """The options of these arguments. Raises TypeError for one that there is not."""
        for name in arguments:
            if name not in Arguments.__annotations__:
                raise TypeError(f"connect() got an unexpected keyword argument {name!r}")
        return Options(**arguments)

    def __post_init__(self) -> None:
        object.__setattr__(self, "timeout", check_timeout(self.timeout))
        if self.read not in ("direct", "worker"):
            raise InvalidArgument(f"read = {self.read!r}: use 'direct' or 'worker'")
        if self.write not in ("worker", "direct"):
            raise InvalidArgument(f"write = {self.write!r}: use 'worker' or 'direct'")
        if self.write == "direct" and self.read != "direct":
            raise InvalidArgument("write = 'direct' goes with read = 'direct' alone")
        _ = self.rules  # raises
        queue_bytes = self.queue_bytes
        if queue_bytes is not None and (type(queue_bytes) is not int or queue_bytes < 0):
            raise InvalidArgument(f"queue_bytes = {queue_bytes!r}: use 0 or more, or None")
        if self.compress is not None and (type(self.compress) is not int or self.compress < 1):
            raise InvalidArgument(
                f"compress = {self.compress!r}: use the bytes from which values are compressed, or "
                "None for never"
            )
        object.__setattr__(self, "wait", check_wait(self.wait))
        object.__setattr__(self, "start", settings_of(self.start))
        if self.on_error not in ("raise", "miss"):
            raise InvalidArgument(f"on_error = {self.on_error!r}: use 'raise' or 'miss'")
        if self.on_error == "miss" and self.write == "direct":
            raise InvalidArgument(
                "on_error = 'miss' goes with write = 'worker' alone: a trusted writer changes the "
                "table itself, so what it loses cannot be told to a server later"
            )

    @property
    def is_lazy(self) -> bool:
        """Whether nothing is looked at before the first use."""
        return self.lazy or self.start is not False

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to do about a server that is not there, but to say so."""
        return not self.is_lazy and self.on_error == "raise"

    def values(self) -> Values:
        """How a client of these options encodes and decodes."""
        values = NATIVE if self.codec is None else with_own(self.codec)
        return values if self.compress is None else compressing(values, self.compress)


def check_timeout(timeout: float) -> float:
    """A request's time limit in seconds; raises InvalidArgument if it makes no sense."""
    if (
        isinstance(timeout, bool)
        or not isinstance(timeout, (int, float))
        or not 0 < timeout <= TIMEOUT_SECONDS_MAX
    ):
        raise InvalidArgument(
            f"timeout = {timeout!r}: use seconds, more than 0 and at most {TIMEOUT_SECONDS_MAX:.0f}"
        )
    return float(timeout)


def check_wait(wait: float) -> float:
    """Seconds to wait for a server; raises InvalidArgument if they make no sense."""
    if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not 0 <= wait < math.inf:
        raise InvalidArgument(f"wait = {wait!r}: use seconds, 0 or more")
    return float(wait)


def settings_of(start: Start) -> Start:
    """What `start` was given as, copied; raises InvalidArgument if it is none of its forms."""
    if isinstance(start, (bool, str, os.PathLike)):
        return start
    if isinstance(start, Mapping) and all(isinstance(name, str) for name in start):
        return dict(start)
    raise InvalidArgument(
        f"start = {start!r}: use True, a dict of settings such as {{'memory': '64MiB'}}, or the "
        "path of a configuration file"
    )
