"""Ends the server of an instance, and waits for its end: what `kvserve stop` does."""

from __future__ import annotations

import os
import signal
import time

from kvserve.errors import ForeignObject, ServerUnavailable
from kvserve.names import Names
from kvserve.runtime import holder, not_served

_LOOK_SECONDS = 0.02


def stop(names: Names) -> None:
    """Stops the server as SIGTERM does; returns when it has ended, however long that takes.

    Writes that wait for a store are written first. The table stays in memory.

    Raises:
        ServerUnavailable: no server runs, or none that this process could see.
        ForeignObject: it is another user's.
    """
    pid = holder(names)
    if pid is None:
        raise not_served(names)
    if pid == 0:
        raise ServerUnavailable(
            f"instance {names.name!r} is served by a process that is not visible from here, in a "
            "container for instance: stop it there"
        )
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:  # it has just ended
        return
    except PermissionError:
        raise ForeignObject(
            f"instance {names.name!r} is served by pid {pid}, a process of another user, who must "
            "stop it"
        ) from None
    while holder(names) == pid:
        time.sleep(_LOOK_SECONDS)
