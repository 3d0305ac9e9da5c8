"""What a worker's exit status tells the parent."""

from __future__ import annotations

from typing import Final

DONE: Final = 0  # stopped as it was told to
CANNOT_BOOT: Final = 3  # it never served: if no worker ever did, nor would its successor
PARENT_GONE: Final = 4  # nobody would reap or respawn it any more
CRASHED: Final = 5  # an exception that should not have come up; respawn
