"""The fast path of `kvserve get KEY [--name NAME]`, which shell loops call: only for hits.

It does what `get_command` of kvserve.cli.data does, without click and without what a client needs
to talk to workers: importing these takes longer than all the rest (75 ms become 34, where
`python -c pass` takes 9). All other cases take the long way.
"""

from __future__ import annotations

from contextlib import closing

from kvserve.cli import output
from kvserve.client.follower import TableFollower
from kvserve.names import instance
from kvserve.table._core import ASK_WORKER

_MISSING = object()


def get(words: list[str]) -> bool | None:
    """Prints the value of a key.

    Args:
        words: of the command line, after `kvserve`.

    Returns:
        Whether the key has a value; None if the long way must be taken, and nothing was done.
    """
    parsed = parse(words)
    if parsed is None:
        return None
    key, name = parsed
    with closing(TableFollower(instance(name))) as table:
        value = table.get(output.parse_key(key), _MISSING)
    if value is ASK_WORKER:
        return None
    if value is _MISSING:
        output.say("no such key")
        return False
    output.write_value(value)
    return True


def parse(words: list[str]) -> tuple[str, str | None] | None:
    """The key and the name in a command line of this form; None if it has another form.

    Example:
        >>> parse(["get", "--name", "sessions", "user:1"]), parse(["get", "user:1", "--json"])
        (('user:1', 'sessions'), None)
    """
    if not words or words[0] != "get":
        return None
    keys = []
    name = None
    rest = iter(words[1:])
    for word in rest:
        if word == "--name":
            name = next(rest, None)
            if name is None:
                return None
        elif word.startswith("-"):
            return None
        else:
            keys.append(word)
    return (keys[0], name) if len(keys) == 1 else None
