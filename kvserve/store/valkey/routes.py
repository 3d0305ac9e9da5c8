"""Sends commands to the servers that have their keys: redirects, failover, one deadline.

A command is sent a second time only if the first server has surely not executed it: it replied
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
_DOWN_PAUSE_SECONDS = 0.03  # before a cluster that is electing is asked again
_ON_ITS_WAY = frozenset({"MOVED", "ASK", "NOSCRIPT", _DOWN})


@dataclass(slots=True)
class Command:
    """A command or script, to be executed on the server that has its key.

    Args:
        words: a command's name, key and arguments; for a script, its key and arguments.
        script: the script that gets the words; None: they are a command.
        then: a second command about the same key; the reply is the pair of both.
    """

    words: Words
    script: Script | None = None
    then: Words | None = None

    @property
    def key(self) -> bytes:
        """The key that decides which server executes it."""
        key = self.words[0 if self.script else 1]
        assert isinstance(key, bytes)
        return key


@dataclass(slots=True)
class _Errand:
    """A command under way, maybe by way of several servers."""

    index: int
    command: Command
    node: Node | None = None  # the target of a redirect; None: the map decides
    is_asking: bool = False  # its slot is moving there now: ASKING must precede it
    is_in_full: bool = False  # send the script's text: the server did not know its digest

    def sent(self) -> list[Words]:
        """The commands that go over the wire."""
        command = self.command
        words = command.words
        if command.script is not None:
            script = command.script
            name, body = ("EVAL", script.text) if self.is_in_full else ("EVALSHA", script.digest)
            words = (name, body, 1, *words)
        sent = [words] if command.then is None else [words, command.then]
        return [each for one in sent for each in (("ASKING",), one)] if self.is_asking else sent

    def reply(self, replies: list[Reply]) -> Reply:
        """The command's reply, out of the replies to `sent`."""
        if self.is_asking:
            replies = replies[1::2]
        if self.command.then is None:
            return replies[0]
        for reply in replies:
            if goes_on(reply):
                return reply  # the pair was not answered by this server alone: send both again
        return tuple(replies)


def goes_on(reply: Reply) -> bool:
    """Whether a reply says that its command was not executed but may be sent again."""
    return isinstance(reply, Refused) and reply.code in _ON_ITS_WAY


async def run(nodes: Nodes, commands: Sequence[Command]) -> list[Reply]:
    """Executes commands, those for one server together and in their order.

    Returns:
        Their replies, in order: the server's, Refused if it refused, NotSent if a command was
        surely not executed, NoAnswer if it may have been.

    Raises:
        StoreUnavailable: none was executed, because no server is known.
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
            # A cluster that has lost a primary is down for all keys until a replica takes over.
            if asyncio.get_running_loop().time() + _DOWN_PAUSE_SECONDS >= deadline:
                break
            await asyncio.sleep(_DOWN_PAUSE_SECONDS)
        else:
            rounds += 1
    return replies


async def _at_once(nodes: Nodes, command: Command, deadline: float) -> list[Reply] | None:
    """The reply to a single command if its server works and has its key, the usual case. None: it
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
    """Sends each errand to one server; returns those that must be sent again."""
    if nodes.is_suspected:  # other servers are being asked which has its slots now
        owners = {errand.node or nodes.owner(errand.command.key) for errand in errands}
        await nodes.settled(owners, deadline)
    reads = nodes.reads
    groups: dict[Node | None, list[_Errand]] = {}
    for errand in errands:
        node = errand.node or nodes.owner(errand.command.key)
        groups.setdefault(node, []).append(errand)
    asked = [_ask(nodes, node, group, deadline) for node, group in groups.items()]
    # One server is the usual case, and needs no task.
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
                    nodes.suspect(node)  # cut off from the others, it does not know its successor
    if is_stale and nodes.is_cluster:
        with suppress(StoreUnavailable):  # then the replies so far must do
            await nodes.refresh_since(reads, deadline)
    return [errand for node, errand, reply in going_on if _goes_on(nodes, node, errand, reply)]


async def _ask(
    nodes: Nodes, node: Node | None, group: Sequence[_Errand], deadline: float
) -> list[Reply]:
    """One reply for each errand: the server's, or the reason why there is none."""
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
    """Whether an errand must be sent again; notes where, and how."""
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
