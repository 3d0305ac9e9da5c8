"""What a client was told when it was made: one object, checked once, for every kind of client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kvserve.client.follower import Read
from kvserve.client.values import NATIVE, Values, with_own
from kvserve.errors import InvalidArgument
from kvserve.limits import TIMEOUT_SECONDS_DEFAULT, TIMEOUT_SECONDS_MAX
from kvserve.protocol.own import Codec

Write = Literal["worker", "direct"]


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "timeout", check_timeout(self.timeout))
        if self.read not in ("direct", "worker"):
            raise InvalidArgument(f"read = {self.read!r}: use 'direct' or 'worker'")
        if self.write not in ("worker", "direct"):
            raise InvalidArgument(f"write = {self.write!r}: use 'worker' or 'direct'")
        if self.write == "direct" and self.read != "direct":
            raise InvalidArgument("write = 'direct' goes with read = 'direct' alone")
        queue_bytes = self.queue_bytes
        if queue_bytes is not None and (type(queue_bytes) is not int or queue_bytes < 0):
            raise InvalidArgument(f"queue_bytes = {queue_bytes!r}: use 0 or more, or None")

    def values(self) -> Values:
        """How a client of these options encodes and decodes."""
        return NATIVE if self.codec is None else with_own(self.codec)


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
