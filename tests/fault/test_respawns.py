"""Workers that die again and again, often before they are a second old: clients hardly notice."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from kvserve.errors import KvserveError

if TYPE_CHECKING:
    from conftest import Eventually
    from support.servers import Server, StartServer

ROUNDS = 12
TIMEOUT_SECONDS = 3.0  # hundreds of respawns fit in; far fewer than 12 pauses that double do


def test_random_kills_cost_no_client_its_request(server: Server) -> None:
    """All workers die, 0.3 to 0.9 s after the last time, so each is young each time."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    ended = threading.Event()
    failures: list[str] = []
    counts = [0, 0]

    def use(number: int) -> None:
        with server.connect(timeout=TIMEOUT_SECONDS) as cache:
            while not ended.is_set():
                key = f"{number} {counts[number]}"
                try:
                    cache.set(key, counts[number])
                except KvserveError as error:
                    failures.append(f"{type(error).__name__}: {error}")
                counts[number] += 1

    clients = [threading.Thread(target=use, args=(number,)) for number in range(len(counts))]
    for client in clients:
        client.start()
    for _ in range(ROUNDS):
        time.sleep(chance.uniform(0.3, 0.9))  # not to wait for anything: the rhythm is the test
        for victim in server.worker_pids:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
    ended.set()
    for client in clients:
        client.join()
    assert failures == []
    assert server.log.count("was killed by SIGKILL") >= ROUNDS
    assert min(counts) > ROUNDS


def test_a_worker_that_cannot_boot_is_tried_for_ever(
    make_server: StartServer, eventually: Eventually
) -> None:
    """Once the server has served: here, the manifest is in the way of a new worker's boot."""
    server = make_server()
    manifest = server.names.manifest
    aside = manifest.with_suffix(".aside")
    aside.write_bytes(manifest.read_bytes())
    victim = server.worker_pids[0]
    manifest.write_text("{}")
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: server.log.count("(cannot boot)") >= 4 or not server.alive)
    assert server.alive, server.log
    aside.replace(manifest)
    eventually(lambda: len(server.worker_pids) == 2)
    server.wait_ready()
