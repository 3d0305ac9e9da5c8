"""`kvserve config` on a running server, for tests: changes, refusals, and who has applied what."""

from __future__ import annotations

from support.commands import Run, kvserve
from support.servers import Server


def config(server: Server, *words: str) -> Run:
    return kvserve("config", *words, "--name", server.name)


def change(server: Server, name: str, value: str) -> None:
    """Changes a setting; the command returns when every worker has applied it."""
    done = config(server, "set", name, value)
    assert (done.returncode, done.stderr) == (0, b""), done


def refused(done: Run, status: int) -> str:
    """The one sentence with which a command was refused."""
    assert (done.returncode, done.stdout) == (status, b""), done
    text = done.stderr.decode()
    assert text.startswith("kvserve: ")
    assert text.count("\n") == 1
    return text


def versions(server: Server) -> list[int]:
    """The version of the settings that each worker runs."""
    with server.connect() as cache:
        return [worker["settings_version"] for worker in cache.stats()["workers"]]
