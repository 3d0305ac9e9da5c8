"""Getting commands to the servers that have their keys: redirects, failover, one deadline.

A command is sent a second time only where the first server has surely not executed it: it said
MOVED or ASK, did not know the script, was cut off from its cluster, or could not be reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError

from kvserve.errors import OutcomeUnknown, StoreUnavailable
from kvserve.store.valkey_address import Node
from kvserve.store.valkey_nodes import Nodes
from kvserve.store.valkey_pool import NoAnswer, NotSent, Reply
from kvserve.store.valkey_scripts import Script
from kvserve.store.valkey_wire import Words

_ROUNDS_MAX = 8  # redirects of one command, one after the other; a resharding needs two


@dataclass(frozen=True, slots=True)
class Command:
    """Something to be executed where its first key is.

    Args:
        words: a command's name, key and arguments; of a script: its keys and arguments.
        script: what the words are for; None: they are a command.
        keys: how many of the words are a script's keys.
    """

    words: Words
    script: Script | None = None
    keys: int = 1

    @property
    def key(self) -> bytes:
        """What decides where."""
        key = self.words[0 if self.script else 1]
        assert isinstance(key, bytes)
        return key


@dataclass(slots=True)
class _Errand:
    """A command on its way."""

    index: int
    command: Command
    node: Node | None = None  # where a redirect sends it; None: where the map says
    is_asking: bool = False  # its slot is just moving there
    is_in_full: bool = False  # the script's digest was not known there

    def sent(self) -> list[Words]:
        """What goes over the wire; the last of it is answered by the command's reply."""
        script = self.command.script
        words = self.command.words
        if script is not None:
            name, body = ("EVAL", script.text) if self.is_in_full else ("EVALSHA", script.digest)
            words = (name, body, self.command.keys, *words)
        return [("ASKING",), words] if self.is_asking else [words]


async def run(nodes: Nodes, commands: Sequence[Command]) -> list[Reply]:
    """Executes commands, those of one server together and in their order.

    Returns:
        Their replies, in order; a ResponseError where the server refused one.

    Raises:
        StoreUnavailable: none was executed.
        OutcomeUnknown: some may have been.
    """
    await nodes.ready()
    deadline = nodes.deadline()
    replies: list[Reply] = [None] * len(commands)
    errands = [_Errand(index, command) for index, command in enumerate(commands)]
    for _ in range(_ROUNDS_MAX):
        if not errands:
            break
        errands = await _round(nodes, errands, replies, deadline)
    failures = [reply for reply in replies if isinstance(reply, (NotSent, NoAnswer))]
    if not failures:
        return replies
    if len(failures) == len(replies) and all(isinstance(each, NotSent) for each in failures):
        raise StoreUnavailable(str(failures[0]))
    raise OutcomeUnknown(str(failures[0]))


async def _round(
    nodes: Nodes, errands: Sequence[_Errand], replies: list[Reply], deadline: float
) -> list[_Errand]:
    """Sends each errand to one server; returns those that have to go on."""
    reads = nodes.reads
    groups: dict[Node | None, list[_Errand]] = {}
    for errand in errands:
        node = errand.node or nodes.owner(errand.command.key)
        groups.setdefault(node, []).append(errand)
    asked = [_ask(nodes, node, group, deadline) for node, group in groups.items()]
    # One server is the usual case, and saves a task.
    answers = [await asked[0]] if len(asked) == 1 else await asyncio.gather(*asked)
    answered = [
        (node, errand, reply)
        for (node, group), answer in zip(groups.items(), answers, strict=True)
        for errand, reply in zip(group, answer, strict=True)
    ]
    for node, errand, reply in answered:
        replies[errand.index] = reply
        if node is not None and isinstance(reply, ClusterDownError):
            nodes.suspect(node)  # cut off from the others, it would not know its successor
    stale = (MovedError, ClusterDownError, NotSent)
    if nodes.is_cluster and any(isinstance(reply, stale) for _, _, reply in answered):
        with suppress(StoreUnavailable):  # then the answers that there are will do
            await nodes.refresh_since(reads, deadline)
    return [errand for node, errand, reply in answered if _goes_on(nodes, node, errand, reply)]


async def _ask(
    nodes: Nodes, node: Node | None, group: Sequence[_Errand], deadline: float
) -> list[Reply]:
    """One reply an errand: the server's, or why there is none."""
    if node is None:
        return [NotSent("no node of the cluster has this key's slot")] * len(group)
    sent = [errand.sent() for errand in group]
    try:
        replies = iter(
            await nodes.pool(node).exchange([words for each in sent for words in each], deadline)
        )
    except (NotSent, NoAnswer) as error:
        nodes.suspect(node)
        return [error] * len(group)
    return [[next(replies) for _ in each][-1] for each in sent]


def _goes_on(nodes: Nodes, node: Node | None, errand: _Errand, reply: Reply) -> bool:
    """Whether an errand is to be sent again; notes where, and how."""
    if node is not None and isinstance(reply, AskError):  # MOVED is one of them
        errand.node = nodes.redirected(node, reply)
        errand.is_asking = not isinstance(reply, MovedError)
        return True
    if isinstance(reply, NoScriptError):
        errand.is_in_full = True
        return True
    if nodes.is_cluster and isinstance(reply, (ClusterDownError, NotSent)):
        errand.node = None
        errand.is_asking = False
        return nodes.owner(errand.command.key) not in (node, None)
    return False
