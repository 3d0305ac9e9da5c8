"""The entry point of the `kvserve` command. Knows nothing of click.

So the fast path, see kvserve.cli.fast_get, need not import it.
"""

from __future__ import annotations

import os
import sys

from kvserve.cli import fast_get
from kvserve.cli.exits import DONE, REFUSED, exit_statuses


def main() -> None:
    """The entry point: runs the command line and exits."""
    _replace_closed_streams()
    with exit_statuses():
        found = fast_get.get(sys.argv[1:])
        sys.stdout.flush()  # so that a failure here is still reported
    if found is not None:
        sys.exit(DONE if found else REFUSED)
    from kvserve.cli.commands import cli  # not above: its import takes longer than a short `get`

    with exit_statuses():  # for output that fails; the rest ends in SystemExit
        cli(prog_name="kvserve")


def _replace_closed_streams() -> None:
    """Opens /dev/null where the shell closed a stream, as in `kvserve get k >&-`.

    Otherwise the next file that is opened, perhaps a FIFO to a worker, would get its number.
    """
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:
            # open takes the lowest free number, which is the closed stream's.
            setattr(sys, stream, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
