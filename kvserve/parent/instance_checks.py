"""What `kvserve doctor` checks of an instance: its owner, what is left of it, its server."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kvserve import limits, whereabouts
from kvserve.config import Config
from kvserve.errors import ConfigError, ForeignObject, ServerUnavailable
from kvserve.names import Names, memory_path, semaphore_path
from kvserve.objects import as_user, is_locked, user_name
from kvserve.parent.adoption import reason_to_replace, wanted_geometry
from kvserve.parent.finding import Finding
from kvserve.parent.starting import workers_wanted
from kvserve.runtime import holder, verify_directory
from kvserve.table.geometry import Geometry, plan
from kvserve.table.table import kept
from kvserve.units import format_size, parse_size


def check_permissions(names: Names, _config: Config) -> Finding:
    """Whether all that exists under the instance's names belongs to this user."""
    check = "permissions"
    if (foreign := _foreign(names)) is not None:
        path, owner = foreign
        text = f"{path} belongs to {user_name(owner)}, not to {user_name(os.geteuid())}"
        remove = as_user(owner, f"kvserve clean --name {names.name}")
        return Finding(check, False, True, text, f"use another --name, or remove it: {remove}")
    for path in _existing(_memory_paths(names)):
        if not stat.S_ISREG(path.lstat().st_mode):
            return Finding(check, False, True, f"{path} is not plain memory", f"rm -r {path}")
    try:
        verify_directory(names)
    except ServerUnavailable:  # there is no directory: could a server make it?
        above, _ = _nearest(names.runtime_directory)
        if not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
            text = f"{above} cannot be written by {user_name(os.geteuid())}"
            fix = "set KVSERVE_RUNTIME_DIR to a directory of your own"
            return Finding(check, False, True, text, fix)
    except ForeignObject as error:
        text, _, fix = str(error).partition("; ")
        return Finding(check, False, True, text, fix.removeprefix("run: ") or "use another --name")
    return Finding(check, True, True, "nothing of another user's is in the way")


def check_leftovers(names: Names, config: Config) -> Finding:
    """What a server that has ended left behind, and what the next one does with it."""
    check = "leftovers"
    sight = _look(names)
    if sight.is_served:
        return Finding(check, True, False, "none: the server runs")
    if sight.hidden_by is not None:
        return _unseen(check, "what is left of it", names, sight.hidden_by)
    if (foreign := _foreign(names)) is not None:
        text = f"what is left is {user_name(foreign[1])}'s, whose next serve alone can take it over"
        return Finding(check, True, False, text)
    killed = "a server of this name was killed" if names.manifest.exists() else ""
    clean = f"kvserve clean --name {names.name} removes"
    if not memory_path(names.table).exists():
        text = f"{killed}: the next serve takes over what it left, {clean} it" if killed else "none"
        return Finding(check, True, False, text)
    size = format_size(sum(path.lstat().st_size for path in _existing(_memory_paths(names))))
    found = f"{killed}, and a table of {size} is kept" if killed else f"a table of {size} is kept"
    workers = workers_wanted(config)
    geometry = wanted_geometry(names, config, workers)
    if config.fresh:
        text = f"{found}: the next serve drops it, as --fresh demands"
        return Finding(check, True, False, text)
    if reason := reason_to_replace(names, geometry):
        text = f"{found}, which the next serve replaces by an empty one: {reason}"
        return Finding(check, False, False, text, _fix_replacement(names, config, workers))
    text = f"{found}: the next serve takes it over, {clean} it, kvserve verify checks it"
    return Finding(check, True, False, text)


def check_served(names: Names, _config: Config) -> Finding:
    """Whether the instance is served."""
    check = "server"
    sight = _look(names)
    if sight.hidden_by is not None:
        return _unseen(check, "whether a server runs under this name", names, sight.hidden_by)
    if not sight.is_served:
        text = "no server runs under this name"
    elif sight.pid is None:
        return _served_elsewhere(check, names)
    elif sight.pid:
        text = f"served by pid {sight.pid}"
    else:
        text = "served by a process that is not to be seen here: of another pid namespace"
    return Finding(check, True, False, text)


def _served_elsewhere(check: str, names: Names) -> Finding:
    found = whereabouts.elsewhere(names)
    if found is None:
        text = f"served from another runtime directory than {names.runtime_directory}"
        return Finding(check, True, False, text)
    text = (
        f"served by {found.server} from another runtime directory, {found.runtime_directory}, "
        f"than {names.runtime_directory}"
    )
    return Finding(check, True, False, text, found.export)


@dataclass(frozen=True, slots=True)
class _Sight:
    """What this user can see of an instance.

    Args:
        is_served: whether it is served, as far as this user can see.
        pid: of the holder of the pid file's lock; 0 if it cannot be read, None if it is free.
        hidden_by: the path that this user may not look into, if there is one.
    """

    is_served: bool
    pid: int | None = None
    hidden_by: Path | None = None


def _look(names: Names) -> _Sight:
    """Looks at both locks of a server, wherever it runs: on the pid file and on the table."""
    try:
        pid = holder(names)
    except ForeignObject:
        path, owner = _nearest(names.runtime_directory)
        return _Sight(is_served=False, hidden_by=path if owner != os.geteuid() else None)
    if pid is not None:
        return _Sight(is_served=True, pid=pid)
    table = memory_path(names.table)
    try:
        return _Sight(is_served=is_locked(table))
    except PermissionError:
        return _Sight(is_served=False, hidden_by=table)


def _unseen(check: str, what: str, names: Names, path: Path) -> Finding:
    """The finding for what another user's permissions hide."""
    owner = path.lstat().st_uid
    text = f"{what} cannot be seen by {user_name(os.geteuid())}: {path} is {user_name(owner)}'s"
    fix = as_user(owner, f"kvserve doctor --name {names.name}")
    return Finding(check, False, False, text, fix)


def _foreign(names: Names) -> tuple[Path, int] | None:
    """The first object that is another user's, and that user's uid."""
    paths = _memory_paths(names)
    paths += [semaphore_path(names.shard_semaphore(shard)) for shard in range(limits.SHARDS_MAX)]
    for path in _existing([*paths, names.making_lock, names.runtime_directory]):
        owner = path.lstat().st_uid
        if owner != os.geteuid():
            return path, owner
    return None


def _nearest(path: Path) -> tuple[Path, int]:
    """The path, or its nearest parent that can be looked at, and that one's owner."""
    found = next(_existing([path, *path.parents]))
    return found, found.lstat().st_uid


def _existing(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        with contextlib.suppress(OSError):
            path.lstat()
            yield path


def _memory_paths(names: Names) -> list[Path]:
    return [*(memory_path(name) for name in (names.table, names.hints)), names.lease_file]


def _fix_replacement(names: Names, config: Config, workers: int) -> str:
    """How to keep the kept table, or how to give it up if no settings fit it."""
    try:
        flags = _flags_for(kept(names), config, workers)
    except (FileNotFoundError, ForeignObject):
        flags = None
    if flags is None:
        return f"kvserve clean --name {names.name}"
    return f"kvserve serve --name {names.name} {flags} keeps it"


def _flags_for(found: Geometry, config: Config, workers: int) -> str | None:
    """The flags of serve, beside the configuration, that make a server adopt the kept table."""
    told = format_size(found.memory_bytes)  # a table takes some bytes less than were demanded
    for memory in (config.memory, parse_size(told), found.memory_bytes):
        for max_value in (config.max_value, found.value_bytes_max):
            with contextlib.suppress(ConfigError):
                if plan(memory, found.item_bytes, max_value, found.shards, workers) == found:
                    flags = {
                        "memory": (_size(memory), _size(config.memory)),
                        "item-size": (_size(found.item_bytes), _size(config.item_size)),
                        "max-value": (_size(max_value), _size(config.max_value)),
                        "shards": (found.shards, config.shards or found.shards),
                    }
                    return " ".join(
                        f"--{flag} {wanted}"
                        for flag, (wanted, now) in flags.items()
                        if wanted != now
                    )
    return None


def _size(size_bytes: int) -> str:
    """A size as a flag takes it: with a unit, unless that would round it."""
    told = format_size(size_bytes).replace(" ", "")
    return told if parse_size(told) == size_bytes else str(size_bytes)
