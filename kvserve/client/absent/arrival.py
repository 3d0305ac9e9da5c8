"""Whether to wait for a server that is not there, or to start one.

Each method of a client that finds no server asks here what to do, and then tries once more, or
raises. `ServerUnavailable` means that nothing was sent, or that it may be sent again; so trying
once more does no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvserve.client.options import Options
from kvserve.names import Names

if TYPE_CHECKING:
    from kvserve.client.absent.starting import Launch


class Arrival:
    """A client's patience until its server is there, and its way to start one.

    The waiting has one end for all threads and tasks, counted from the first use. Once the server
    was there it is over: a server that goes away later is not waited for.

    Args:
        names: the instance's.
        options: the client's.
    """

    def __init__(self, names: Names, options: Options) -> None:
        self._wait_seconds = options.wait if options.is_lazy else 0.0
        self._deadline: float | None = None
        self.launch: Launch | None = None
        if options.start is not False:
            from kvserve.client.absent.starting import Launch  # not above: few need subprocess

            self.launch = Launch(names, options.start)

    def came(self) -> None:
        """The server is there."""
        self._wait_seconds = 0.0
        if self.launch is not None:
            self.launch.compare()

    def may_wait(self, now: float) -> bool:
        """Whether there is time left to wait, given seconds on the monotonic clock."""
        if self._deadline is None:
            self._deadline = now + self._wait_seconds
        return self._wait_seconds > 0 and now < self._deadline
