"""Servers of one name that start from several runtime directories at once: a program for a test.

`python racing.py NAME ROOT ROUNDS SEED` forks the servers from one process that has all imported,
so that their starts overlap as they rarely do when each is a program of its own. It prints a line
for each round that went wrong.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import kvserve
from kvserve.config import Config
from kvserve.errors import AlreadyServed, KvserveError
from kvserve.parent.parent import serve

RACERS = 2
STAGGER_SECONDS = 0.03  # about what a start takes
READY_SECONDS = 30.0


def race(name: str, root: Path, chance: random.Random, config: Config) -> list[str]:
    """What went wrong in one round."""
    directories = [root / str(racer) for racer in range(RACERS)]
    logs = [root / f"log.{racer}" for racer in range(RACERS)]
    start, go = os.pipe()
    pids = []
    for directory, log in zip(directories, logs, strict=True):
        delay = chance.uniform(0, STAGGER_SECONDS) * (chance.random() < 0.7)
        pid = os.fork()
        if pid == 0:
            os.close(go)
            _run(directory, log, start, delay, config)
        pids.append(pid)
    os.close(start)
    os.close(go)  # all of them read the end of the file
    ended = _wait(pids, logs)
    problems = []
    winners = [racer for racer in range(RACERS) if racer not in ended]
    if len(winners) != 1 or any(status != 3 for status in ended.values()):
        problems.append(f"winners {winners}, ended {ended}")
    for winner in winners:
        problems += _try(name, directories[winner])
        os.kill(pids[winner], signal.SIGTERM)
        status = os.waitstatus_to_exitcode(os.waitpid(pids[winner], 0)[1])
        if status:
            problems.append(f"the winner ended with {status}")
    if problems:
        problems += [log.read_text() for log in logs]
    return problems


def _run(directory: Path, log: Path, start: int, delay: float, config: Config) -> None:
    os.environ["KVSERVE_RUNTIME_DIR"] = str(directory)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    status = 70
    try:
        os.read(start, 1)
        time.sleep(delay)
        status = serve(config)
    except AlreadyServed as error:
        print(error, file=sys.stderr, flush=True)
        status = 3
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _wait(pids: list[int], logs: list[Path]) -> dict[int, int]:
    """The exit statuses of those that ended, when the others are ready."""
    ended: dict[int, int] = {}
    give_up = time.monotonic() + READY_SECONDS
    while time.monotonic() < give_up:
        for racer, pid in enumerate(pids):
            if racer not in ended:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    ended[racer] = os.waitstatus_to_exitcode(status)
        ready = [racer for racer, log in enumerate(logs) if log.exists() and _is_ready(log)]
        if len(ended) + len(set(ready) - set(ended)) == len(pids):
            break
        time.sleep(0.002)
    return ended


def _is_ready(log: Path) -> bool:
    return "ready: " in log.read_text()


def _try(name: str, directory: Path) -> list[str]:
    os.environ["KVSERVE_RUNTIME_DIR"] = str(directory)
    try:
        with kvserve.connect(name, timeout=10) as cache:
            for number in range(4):
                cache.set(f"key {number}", number)
            if [cache.get(f"key {number}") for number in range(4)] != list(range(4)):
                return ["a value is missing"]
            return []
    except KvserveError as error:
        return [f"{type(error).__name__}: {error}"]


def main() -> None:
    """Runs as many rounds as told."""
    name, root, rounds, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    for number in range(rounds):
        config = Config(
            name=name,
            memory=2**20 * chance.choice([1, 2]),
            max_value=2**14,
            workers=2,
            queue_depth=2,
            keep=chance.random() < 0.4,
            fresh=chance.random() < 0.3,
            log_level="info",
        )
        if problems := race(name, root, chance, config):
            print(f"round {number}: {'; '.join(problems)}", flush=True)


if __name__ == "__main__":
    main()
