"""Runs the `kvserve` command as a shell would, for tests: with pipes, or at a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

COMMAND = (sys.executable, "-m", "kvserve")
Run = subprocess.CompletedProcess[bytes]


def kvserve(*arguments: str | bytes, stdin: bytes = b"", **variables: str) -> Run:
    """Runs the command; `variables` are added to its environment."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        env=environment() | variables,
        check=False,
    )


def environment() -> dict[str, str]:
    """Ours, but for a setting that would hide what happens to buffered output at the end."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def answers(done: Run, status: int, stdout: bytes) -> bool:
    """Whether it ended so, with nothing on standard error. Fails with what there was instead."""
    assert (done.returncode, done.stdout, done.stderr) == (status, stdout, b"")
    return True


def on_terminal(*arguments: str, typed: bytes = b"") -> tuple[int, str]:
    """Runs the command with a terminal as all its streams; its status and what the screen got."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment() | {"TERM": "dumb"},  # no colours between the words
    )
    os.close(theirs)
    os.write(ours, typed)
    screen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # how Linux tells the end of a terminal
            break
        if not piece:
            break
        screen += piece
    os.close(ours)
    return process.wait(), screen.decode().replace("\r\n", "\n")
