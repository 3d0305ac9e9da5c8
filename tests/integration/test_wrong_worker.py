"""What was meant for another worker is refused by the one that gets it, and sent where it belongs.

A client splits keys among the workers that it has seen. The server may be started anew with another
number of them, or with another table, before the parts are sent.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.attacker import Attacker
from support.servers import StartServer

import kvserve
from kvserve.client.aio.channel import AsyncChannel
from kvserve.client.blocking.channel import Channel
from kvserve.client.calls.call import Call
from kvserve.errors import WrongWorker
from kvserve.protocol import commands

KEYS = [f"key {n}" for n in range(40)]


@pytest.fixture(params=["table alone", "store", "write-behind"])
def flags(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    if request.param == "table alone":
        return []
    behind = ["--write-behind", "60"] if request.param == "write-behind" else []
    return ["--store", f"sqlite:///{tmp_path / 'cache.db'}", *behind]


def requests(key: str, own: str) -> Iterator[tuple[commands.Command, tuple[Any, ...]]]:
    """Every kind of request that writes this key."""
    yield commands.SET, (key, 0, b"wrong", 0)
    yield commands.ADD, (key, 0, b"wrong", 0)
    yield commands.DELETE, (key,)
    yield commands.TOUCH, (key, 5000)
    yield commands.INCR, (key, 1, 0, 0)
    yield commands.LIMIT, (key, 5, 1000, 1, 1)
    yield commands.LIMIT_RESET, (key,)
    yield commands.BATCH, ([[commands.SET.code, own, 0, b"wrong", 0], [12, key, 0, b"wrong", 0]],)
    yield commands.SET_MANY, ([own, key], b"\0\0", [b"wrong", b"wrong"], 0)
    yield commands.DELETE_MANY, ([own, key],)


def test_a_worker_changes_no_shards_but_its_own(make_server: StartServer, flags: list[str]) -> None:
    server = make_server("--workers", "3", "--shards", "6", *flags)
    with server.connect() as cache:
        key = next(each for each in KEYS if cache._shard_of(each) % 3)
        own = next(each for each in KEYS if cache._shard_of(each) % 3 == 0)
        cache.set(own, b"right")
        with Attacker(server.names, secrets.randbits(64)) as client:
            client.greet()
            for request_id, (command, arguments) in enumerate(requests(key, own), 2):
                client.send(client.request(command, request_id, arguments))
                reply = client.await_reply(request_id)
                assert reply is not None
                assert reply.status == WrongWorker.wire_code, command.name
        assert cache.get(own) == b"right"  # not even the part that it might have done
        assert cache.get(key) is None


def after_the_next_look(cache: Any, restart: Callable[[], None]) -> None:
    """The server is started anew between a look at its workers and what is sent then."""
    count = cache._workers.count

    def count_then_restart() -> Any:
        cache._workers.count = count
        found = count()
        if not asyncio.iscoroutine(found):
            restart()
            return found

        async def finish() -> int:
            number: int = await found
            restart()
            return number

        return finish()

    cache._workers.count = count_then_restart


@pytest.mark.parametrize("fresh", [(), ("--fresh",)], ids=["same table", "another table"])
def test_batches_are_split_anew(make_server: StartServer, fresh: tuple[str, ...]) -> None:
    servers = [make_server("--workers", "2", "--shards", "6")]

    def restart(workers: int) -> None:
        servers[-1].stop()
        servers.append(
            make_server("--workers", str(workers), "--shards", "6", *fresh, names=servers[0].names)
        )

    with servers[0].connect() as cache:
        after_the_next_look(cache, lambda: restart(3))
        cache.set_many(dict.fromkeys(KEYS, 1))
        assert cache.get_many(KEYS) == dict.fromkeys(KEYS, 1)
        after_the_next_look(cache, lambda: restart(2))
        with cache.pipeline() as pipeline:
            for key in KEYS:
                pipeline.incr(key, initial=1).incr(key)
        assert pipeline.results == [2, 3] * len(KEYS)
        assert cache.verify() == []
        after_the_next_look(cache, lambda: restart(3))
        assert cache.delete_many([*KEYS, "nobody"]) == (0 if fresh else len(KEYS))

    async def tasks() -> None:
        async with await kvserve.connect_async(servers[0].name, timeout=20) as cache:
            after_the_next_look(cache, lambda: restart(2))
            await cache.set_many(dict.fromkeys(KEYS, 5))
            after_the_next_look(cache, lambda: restart(3))
            async with cache.pipeline() as pipeline:
                for key in KEYS:  # what may be sent again: it may notice late who has died
                    pipeline.set(key, 6)
            assert await cache.get_many(KEYS) == dict.fromkeys(KEYS, 6)

    asyncio.run(tasks())


def test_a_session_that_was_opened_by_an_old_manifest(make_server: StartServer) -> None:
    """Its number of workers is wrong, and stays so, as the session lives."""
    server = make_server("--workers", "3", "--shards", "6")
    with server.connect() as cache:
        cache._workers.manifest = cache._workers.manifest._replace(workers=2)
        for key in KEYS:
            assert cache.incr(key) == 1
        assert cache.verify() == []

    async def singles() -> None:
        async with await kvserve.connect_async(server.name, timeout=20) as cache:
            await cache.ping()
            cache._workers.manifest = cache._workers.manifest._replace(workers=2)
            assert [await cache.incr(key) for key in KEYS] == [2] * len(KEYS)

    asyncio.run(singles())


@pytest.mark.parametrize("command", ["incr", "incr in a pipeline", "get_many"])
def test_a_call_that_never_comes_to_the_right_worker_has_one_deadline(
    make_server: StartServer, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """However often it looks for the right one; then nothing was done, and it says so."""
    server = make_server("--workers", "3", "--shards", "6")
    deadlines: list[float] = []

    def ask(cache: Any, keys: list[str]) -> Any:
        if command == "get_many":
            return cache.get_many(keys)
        if command == "incr":
            return cache.incr(keys[0])
        return cache.pipeline().incr(keys[0]).execute()

    def send(channel: Any, command: Any, arguments: Any, deadline: float) -> int:
        deadlines.append(deadline)
        return original(channel, command, arguments, deadline)

    original = Channel.send
    with server.connect(timeout=0.3, read="worker") as cache:
        cache.ping()
        keys = [key for key in KEYS if cache._shard_of(key) % 3 == 0]
        monkeypatch.setattr(cache._workers, "look_again", lambda: time.sleep(0.02))
        monkeypatch.setattr(cache, "_shard_of", lambda _: 1)
        monkeypatch.setattr(cache, "_split", lambda keys, workers: [[], list(keys), []][:workers])
        monkeypatch.setattr(Channel, "send", send)
        with pytest.raises(WrongWorker):
            ask(cache, keys)
    assert len(deadlines) > 2
    assert set(deadlines) == {deadlines[0]}
    with server.connect() as cache:
        assert cache.get_many(keys) == {}

    async def task() -> None:
        timeouts: list[float] = []
        async with await kvserve.connect_async(server.name, timeout=0.3) as cache:
            await cache.ping()
            workers = cache._workers
            original = AsyncChannel.ask

            async def ask_channel(
                channel: AsyncChannel, command: Any, arguments: Any, deadline: float
            ) -> Any:
                timeouts.append(deadline)
                return await original(channel, command, arguments, deadline)

            monkeypatch.setattr(AsyncChannel, "ask", ask_channel)
            monkeypatch.setattr(workers, "look_again", lambda: asyncio.sleep(0.02))
            question = Call(commands.INCR, (keys[0], 1, 0, 0), 1, idempotent=False)
            operation = SimpleNamespace(call=lambda _: question, interpret=print)
            with pytest.raises(WrongWorker):
                await cache._run(operation)  # type: ignore[arg-type]
        assert len(timeouts) > 2
        assert set(timeouts) == {timeouts[0]}

    asyncio.run(task())
