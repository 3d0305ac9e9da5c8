"""The rule of the parent's loop: a failure is logged and tried again, and ends nothing.

Once a server has served, only a signal or the loss of its kernel objects ends it. Everything else
that can fail in its parent (no descriptor, no memory, no process left, a full disk, a bug) may
pass, and is no reason to take the cache from its clients. So everything in the loop runs through
here: a failed timer is set again soon, and pipes, deaths and settings are checked at each turn
anyway.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from kvserve.parent.logs import Log
from kvserve.parent.timers import Timers

RETRY_SECONDS = 0.5
_PAUSE_SECONDS = 0.05  # an action that fails at each turn must not take a whole core
_REPEAT_SECONDS = 60.0  # before the same failure is logged again


class Attempts:
    """Runs the actions of the loop.

    Args:
        log: where failures are reported.
        timers: where a failed timer is set again.
        is_rule: whether the rule holds yet: a failure before the server has served ends the start.
    """

    def __init__(self, log: Log, timers: Timers, is_rule: Callable[[], bool]) -> None:
        self._log = log
        self._timers = timers
        self._is_rule = is_rule
        self._told: dict[str, tuple[str, float]] = {}

    def run(self, what: str, action: Callable[[], None]) -> None:
        """Runs what every turn of the loop repeats; after a failure it pauses for a moment."""
        if not self._succeeds(what, action):
            time.sleep(_PAUSE_SECONDS)

    def run_timer(self, name: str, action: Callable[[], None]) -> None:
        """Runs a timer's action; after a failure the timer is set again."""
        if not self._succeeds(name, action):
            self._timers.set(name, RETRY_SECONDS, action)

    def _succeeds(self, what: str, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:
            if not self._is_rule():
                raise
            # A failure to log must not end the loop either.
            with contextlib.suppress(Exception):
                self._tell(what, f"{type(error).__name__}: {error}")
            return False
        return True

    def _tell(self, what: str, text: str) -> None:
        now = time.monotonic()
        told, moment = self._told.get(what, ("", 0.0))
        if text != told or now - moment >= _REPEAT_SECONDS:
            self._told[what] = (text, now)
            self._log.error(f"{what} failed, and is tried again: {text}")
