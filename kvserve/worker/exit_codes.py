"""What a worker's exit status means to the parent."""

from __future__ import annotations

from typing import Final

DONE: Final = 0  # stopped on request
CANNOT_BOOT: Final = 3  # it never served: if no worker ever did, its successor would not
PARENT_GONE: Final = 4  # no process would reap or respawn it any more
CRASHED: Final = 5  # an unexpected exception; respawn
