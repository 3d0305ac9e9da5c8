"""A replica that does not answer may be a primary by now, unless nothing listens there."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from kvserve.store.valkey.address import Node, parse
from kvserve.store.valkey.marks import Marks
from kvserve.store.valkey.witnesses import Witnesses

MARKS = cast("Marks", None)  # only what answers is compared with them


async def silent_server() -> tuple[asyncio.Server, Node]:
    """It takes connections, and says nothing."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    host, port = cast("tuple[str, int]", server.sockets[0].getsockname())
    return server, Node(host, port)


async def all_say_so(witnesses: Witnesses, node: Node, patience_seconds: float) -> bool:
    return await witnesses.check(frozenset({node}), MARKS, 0.1, patience_seconds)


def test_a_silent_replica_is_waited_for() -> None:
    async def main() -> None:
        server, node = await silent_server()
        witnesses = Witnesses(parse(f"valkey://{node.host}:{node.port}"))
        await witnesses.call({node})
        assert not await all_say_so(witnesses, node, 60.0)
        assert await all_say_so(witnesses, node, 0.0)  # it was silent for so long
        assert not await all_say_so(witnesses, node, 60.0)
        server.close()
        assert await all_say_so(witnesses, node, 60.0)  # nothing listens there any more
        await witnesses.close()

    asyncio.run(main())


def test_a_replica_that_left_the_cluster_is_not_waited_for() -> None:
    async def main() -> None:
        server, node = await silent_server()
        witnesses = Witnesses(parse(f"valkey://{node.host}:{node.port}"))
        await witnesses.call({node})
        assert await witnesses.check(frozenset(), MARKS, 0.1, 60.0)
        server.close()
        await witnesses.close()

    asyncio.run(main())


class SlowLink:
    """A connection that is there, and does not answer."""

    async def ask(self, *_: Any) -> Any:
        await asyncio.sleep(60)

    def close(self) -> None:
        pass


class AskingMarks:
    """Waits for the replica's answer, as the marks do."""

    async def check_replica(self, _: Node, link: SlowLink) -> None:
        await link.ask()


def test_an_answer_that_does_not_come_in_time_is_waited_for() -> None:
    async def main() -> None:
        server, node = await silent_server()
        witnesses = Witnesses(parse(f"valkey://{node.host}:{node.port}"))
        witnesses._links[node] = cast("Any", SlowLink())
        marks = cast("Marks", AskingMarks())
        assert not await witnesses.check(frozenset({node}), marks, 0.05, 60.0)
        assert not await witnesses.check(frozenset({node}), marks, 0.05, 60.0)
        server.close()
        await witnesses.close()

    asyncio.run(main())
