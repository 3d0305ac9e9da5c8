"""Timed kills under load; KVSERVE_TEST_KILLS says how many, `make test-soak` a thousand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fault.soak import Soak
from support.seeds import SEED, line
from support.servers import Server, StartServer

KILLS = int(os.environ.get("KVSERVE_TEST_KILLS", "40"))


@pytest.mark.watchdog(120 + 10 * KILLS)
def test_kills_under_load(make_server: StartServer, tmp_path: Path) -> None:
    print(line())
    first: list[Server] = []

    def start() -> Server:
        names = first[0].names if first else None
        server = make_server("--memory", "96MiB", names=names)
        first.append(server)
        return server

    print(Soak(start, tmp_path, SEED).run(KILLS))
