"""Getting commands to the servers that have their keys: redirects, failover, one deadline.

A command is sent a second time only where the first server has surely not executed it: it said
MOVED or ASK, did not know the script, was cut off from its cluster, or could not be reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from kvserve.errors import StoreUnavailable
from kvserve.store.valkey.address import Node
from kvserve.store.valkey.line import Reply
from kvserve.store.valkey.nodes import Nodes
from kvserve.store.valkey.pool import NoAnswer, NotSent
from kvserve.store.valkey.scripts import Script
from kvserve.store.valkey.wire import Refused, Words

_ROUNDS_MAX = 8  # redirects of one command, one after the other; a resharding needs two
_DOWN = "CLUSTERDOWN"
_DOWN_PAUSE_SECONDS = 0.03  # then a cluster that is electing is asked again
_ON_ITS_WAY = frozenset({"MOVED", "ASK", "NOSCRIPT", _DOWN})


@dataclass(slots=True)
class Command:
    """Something to be executed where its first key is.

    Args:
        words: a command's name, key and arguments; of a script: its keys and arguments.
        script: what the words are for; None: they are a command.
        then: a second command about the same key; the reply is the pair of both.
    """

    words: Words
    script: Script | None = None
    then: Words | None = None

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
        """What goes over the wire."""
        command = self.command
        words = command.words
        if command.script is not None:
            script = command.script
            name, body = ("EVAL", script.text) if self.is_in_full else ("EVALSHA", script.digest)
            words = (name, body, 1, *words)
        sent = [words] if command.then is None else [words, command.then]
        return [each for one in sent for each in (("ASKING",), one)] if self.is_asking else sent

    def reply(self, replies: list[Reply]) -> Reply:
        """The command's reply, of those to what was sent."""
        if self.is_asking:
            replies = replies[1::2]
        if self.command.then is None:
            return replies[0]
        for reply in replies:
            if goes_on(reply):
                return reply  # half of it was answered elsewhere, or is not answered at all
        return tuple(replies)


def goes_on(reply: Reply) -> bool:
    """Whether a reply says that its command was not executed, and where it may be."""
    return isinstance(reply, Refused) and reply.code in _ON_ITS_WAY


async def run(nodes: Nodes, commands: Sequence[Command]) -> list[Reply]:
    """Executes commands, those of one server together and in their order.

    Returns:
        Their replies, in order: what the server said, Refused if it refused; NotSent where a
        command was surely not executed, NoAnswer where it may have been.

    Raises:
        StoreUnavailable: none was executed, as no server is known.
    """
    if nodes.view is None:
        await nodes.ready()
    deadline = nodes.deadline()
    if len(commands) == 1 and (answer := await _at_once(nodes, commands[0], deadline)) is not None:
        return answer
    replies: list[Reply] = [None] * len(commands)
    errands = [_Errand(index, command) for index, command in enumerate(commands)]
    rounds = 0
    while errands and rounds < _ROUNDS_MAX:
        errands = await _round(nodes, errands, replies, deadline)
        if errands and all(_is_down(replies[errand.index]) for errand in errands):
            # A cluster that has lost a primary is down for all, until a replica has its place.
            if asyncio.get_running_loop().time() + _DOWN_PAUSE_SECONDS >= deadline:
                break
            await asyncio.sleep(_DOWN_PAUSE_SECONDS)
        else:
            rounds += 1
    return replies


async def _at_once(nodes: Nodes, command: Command, deadline: float) -> list[Reply] | None:
    """The reply to a single command, if its server is well and has it: the usual case. None: it
    was not sent, or surely not executed."""
    node = nodes.owner(command.key)
    if node is None or nodes.is_suspected:
        return None
    words, then = command.words, command.then
    if command.script is not None:
        words = ("EVALSHA", command.script.digest, 1, *words)
    sent = (words,) if then is None else (words, then)
    try:
        replies = await nodes.pool(node).exchange(sent, deadline)
    except NotSent:
        return None
    except NoAnswer as error:
        nodes.suspect(node)
        return [error]
    if any(map(goes_on, replies)):
        return None
    return replies if then is None else [tuple(replies)]


async def _round(
    nodes: Nodes, errands: Sequence[_Errand], replies: list[Reply], deadline: float
) -> list[_Errand]:
    """Sends each errand to one server; returns those that have to go on."""
    if nodes.is_suspected:  # others are being asked who has its slots by now
        owners = {errand.node or nodes.owner(errand.command.key) for errand in errands}
        await nodes.settled(owners, deadline)
    reads = nodes.reads
    groups: dict[Node | None, list[_Errand]] = {}
    for errand in errands:
        node = errand.node or nodes.owner(errand.command.key)
        groups.setdefault(node, []).append(errand)
    asked = [_ask(nodes, node, group, deadline) for node, group in groups.items()]
    # One server is the usual case, and saves a task.
    answers = [await asked[0]] if len(asked) == 1 else await asyncio.gather(*asked)
    going_on: list[tuple[Node | None, _Errand, Reply]] = []
    is_stale = False
    for (node, group), answer in zip(groups.items(), answers, strict=True):
        for errand, reply in zip(group, answer, strict=True):
            replies[errand.index] = reply
            if isinstance(reply, (Refused, NotSent)):
                going_on.append((node, errand, reply))
                is_stale |= isinstance(reply, NotSent) or reply.code in ("MOVED", _DOWN)
                if node is not None and _is_down(reply):
                    nodes.suspect(node)  # cut off from the others, it knows no successor
    if is_stale and nodes.is_cluster:
        with suppress(StoreUnavailable):  # then the answers that there are will do
            await nodes.refresh_since(reads, deadline)
    return [errand for node, errand, reply in going_on if _goes_on(nodes, node, errand, reply)]


async def _ask(
    nodes: Nodes, node: Node | None, group: Sequence[_Errand], deadline: float
) -> list[Reply]:
    """One reply an errand: the server's, or why there is none."""
    if node is None:
        return [NotSent("no node of the cluster has this key's slot")] * len(group)
    sent = [errand.sent() for errand in group]
    try:
        replies = await nodes.pool(node).exchange(
            [words for each in sent for words in each], deadline
        )
    except (NotSent, NoAnswer) as error:
        nodes.suspect(node)
        return [error] * len(group)
    answers = []
    first = 0
    for errand, words in zip(group, sent, strict=True):
        answers.append(errand.reply(replies[first : first + len(words)]))
        first += len(words)
    return answers


def _is_down(reply: Reply) -> bool:
    return isinstance(reply, Refused) and reply.code == _DOWN


def _goes_on(nodes: Nodes, node: Node | None, errand: _Errand, reply: Refused | NotSent) -> bool:
    """Whether an errand is to be sent again; notes where, and how."""
    code = reply.code if isinstance(reply, Refused) else ""
    if node is not None and code in ("MOVED", "ASK"):
        errand.node = nodes.redirected(node, str(reply))
        errand.is_asking = code == "ASK"
        return True
    if code == "NOSCRIPT":
        errand.is_in_full = True
        return True
    if not nodes.is_cluster or not (code == _DOWN or isinstance(reply, NotSent)):
        return False
    errand.node = None
    errand.is_asking = False
    return code == _DOWN or nodes.owner(errand.command.key) not in (node, None)
