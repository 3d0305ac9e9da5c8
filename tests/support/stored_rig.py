"""A stored executor over a table of its own and a store in memory."""

from __future__ import annotations

import asyncio
from typing import Any

from kvserve.execution.budget import Allowance, Budget
from kvserve.execution.executor import Executor
from kvserve.execution.stored.coherence import Coherence
from kvserve.execution.stored.executor import StoredExecutor
from kvserve.protocol.commands import Command
from kvserve.protocol.messages import Reply, Request
from kvserve.store.guard import GuardedStore
from kvserve.store.negative_cache import NegativeCache
from kvserve.store.write_behind import WriteBehind
from kvserve.table.table import Table
from support.memory_store import MemoryStore

_NEVER_MS = 2**50  # a deadline


class Nobody:
    """Whose requests these are."""

    charged_bytes, is_open = 0, True


class Rig:
    """A stored executor over a table of its own and a store in memory."""

    def __init__(self, table: Table, store: MemoryStore, behind_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self.store = store
        guarded = GuardedStore(store, loop, 5.0, value_bytes_max=1024)
        self._opening = loop.create_task(guarded.open())
        shards = range(table.shards)
        negative_cache = NegativeCache(0.0, loop.time)
        self.coherence = Coherence(table, shards, 0, negative_cache, is_shared=store.is_shared)
        self.behind = WriteBehind(guarded, loop, behind_seconds) if behind_seconds else None
        self.negative_cache = negative_cache
        self.executor = StoredExecutor(
            table, 0, Executor(table, shards, dict), guarded, self.behind, negative_cache,
            self.coherence, loop, 1024,
        )  # fmt: skip

    def submit(self, command: Command, *arguments: Any) -> asyncio.Future[Reply]:
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        request = Request(1, 2, command, _NEVER_MS, arguments)
        self.executor.submit(request, reply.set_result, Allowance(Budget(2**30), Nobody(), 0))
        return reply

    async def ask(self, command: Command, *arguments: Any) -> Any:
        return (await self.submit(command, *arguments)).result()
