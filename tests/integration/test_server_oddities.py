"""A start and a clean amid whatever lies about under the names of an instance."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.commands import kvserve
from support.leftovers import processes
from support.oddities import ODDITIES, uproot
from support.servers import clean_up

from kvserve.parent.housekeeping import FIFO_AGE_SECONDS, memory_path, semaphore_path
from kvserve.runtime import holder

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Eventually
    from support.servers import StartServer

    from kvserve.names import Names


def test_a_clients_directory_full_of_oddities(
    make_server: StartServer, names: Names, eventually: Eventually
) -> None:
    """As a member of the group leaves it: before the start, while it runs, and before a clean."""

    def plant() -> list[Path]:
        # Old, so that the next sweep looks at them.
        planted = []
        moment = time.time() - FIFO_AGE_SECONDS
        for client_id, each in enumerate(ODDITIES.values()):
            for path in (names.request_fifo(client_id), names.reply_fifo(client_id + 100)):
                each(path)
                os.utime(path, (moment, moment), follow_symlinks=False)
                planted.append(path)
        return planted

    names.runtime_directory.mkdir(mode=0o700)
    names.clients_directory.mkdir(mode=0o700)
    planted = plant()
    server = make_server(names=names)
    for path in planted:
        uproot(path)
    planted = plant()
    full = {path for path in planted if path.is_dir() and any(path.iterdir())}
    eventually(
        lambda: {path for path in planted if os.path.lexists(path)} <= full or not server.alive
    )
    assert server.alive, server.log
    with server.connect() as cache:
        cache.set("a", 1)
    assert server.stop() == 0
    assert kvserve("clean", "--name", names.name).returncode == 0
    for path in planted:
        uproot(path)


PLACES: dict[str, Callable[[Names], Path]] = {
    "pid file": lambda names: names.pid_file,
    "manifest": lambda names: names.manifest,
    "clients directory": lambda names: names.clients_directory,
    "runtime directory": lambda names: names.runtime_directory,
    "table": lambda names: memory_path(names.table),
    "lease file": lambda names: names.lease_file,
    "settings": lambda names: memory_path(names.settings),
    "semaphore": lambda names: semaphore_path(names.shard_semaphore(0)),
    "lock": lambda names: names.making_lock,
}


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        *((place, "full directory") for place in PLACES),
        ("pid file", "FIFO"),
        ("settings", "socket"),
    ],
)
def test_what_is_in_the_way_is_named(
    names: Names, place: str, kind: str, eventually: Eventually
) -> None:
    """A sentence with its path, and none of it is waited for; or it is replaced and served."""
    path = PLACES[place](names)
    serve = ["serve", "--name", names.name, "--workers", "1", "--memory", "1MiB"]
    if place != "runtime directory":
        names.runtime_directory.mkdir(mode=0o700, exist_ok=True)
    ODDITIES[kind](path)
    daemon = kvserve(*serve, "--max-value", "8KiB", "--queue-depth", "2", "--daemon")
    refused = daemon.stderr.decode()
    assert "Traceback" not in refused
    if daemon.returncode == 0:
        os.kill(holder(names) or 0, signal.SIGTERM)
        eventually(lambda: not processes(names))
    else:
        assert daemon.returncode == 3, refused
        assert path.name in refused
        assert refused.count("\n") == 1
    cleaned = kvserve("clean", "--name", names.name)
    assert cleaned.returncode in (0, 3), cleaned.stderr.decode()
    assert "Traceback" not in cleaned.stderr.decode()
    uproot(path)
    clean_up(names)
