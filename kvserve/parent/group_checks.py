"""What `kvserve doctor` checks of the control group: whether its memory limit allows the table.

The kernel charges each page of a tmpfs to the group of the process that touches it first: here the
server, which takes the whole table at its start. Above the group's limit the kernel kills one of
its processes without a message. So this is checked before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kvserve import limits
from kvserve.config import Config
from kvserve.names import Names
from kvserve.parent.finding import Finding
from kvserve.parent.system_checks import kept_bytes
from kvserve.units import format_size

_UNLIMITED_BYTES = 2**62  # control groups version 1 report about twice that for no limit


class _Files(NamedTuple):
    """The files of a version of control groups.

    Args:
        limit, swap: their names.
        swap_has_limit: whether the limit of swap counts the memory, too.
        held: the lines of memory.stat that the kernel cannot drop when memory runs out.
    """

    limit: str
    swap: str
    swap_has_limit: bool
    held: tuple[str, ...]


_FIRST = _Files(
    "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", True, ("total_rss", "total_shmem")
)
_SECOND = _Files("memory.max", "memory.swap.max", False, ("anon", "shmem"))


class _Room(NamedTuple):
    """What a group may still take, its limit, and what it holds, in bytes."""

    left: int
    limit: int
    held: int


def check_memory_limit(
    names: Names,
    config: Config,
    groups: Path = Path("/sys/fs/cgroup"),
    own: Path = Path("/proc/self/cgroup"),
) -> Finding:
    """Whether the control group may use that much memory beside what it uses already."""
    check = "memory limit"
    room = min(_rooms(groups, own), default=None)
    if room is None:
        return Finding(check, True, False, "no control group limits the memory")
    may = f"the control group may use {format_size(room.limit)}"
    if room.left >= config.memory - kept_bytes(names):
        return Finding(check, True, False, may)
    if room.limit >= config.memory:
        may += f", of which {format_size(room.held)} are taken"
    text = (
        f"{may}, less than the table's {format_size(config.memory)}: "
        "the kernel kills the process that fills the table"
    )
    wanted_mib = -(-(2 * config.memory + room.held) // limits.MIB)  # as much again, for processes
    fix = (
        f"systemctl set-property UNIT MemoryMax={wanted_mib}M (of a container: "
        f"--memory={wanted_mib}m), or serve with a smaller --memory"
    )
    return Finding(check, False, True, text, fix)


def _rooms(groups: Path, own: Path) -> Iterator[_Room]:
    """The room of this process's control group and of those above it, of either version."""
    try:
        rows = own.read_text().splitlines()
    except OSError:
        return
    for row in rows:
        _, controllers, path = row.split(":", 2)
        if controllers == "":
            top, files = groups, _SECOND
        elif "memory" in controllers.split(","):
            top, files = groups / "memory", _FIRST
        else:
            continue
        # A group outside of this process's namespace has a path that begins with /..
        folder = top.joinpath(*(part for part in path.split("/") if part not in ("", "..")))
        # A container may see its own group as the top, under a path that does not exist.
        for each in (folder, *folder.parents[: len(folder.parts) - len(top.parts)]):
            limit = _number(each / files.limit)
            if limit is not None:
                held = _held(each / "memory.stat", files.held)
                yield _Room(limit + _swap(each, files, limit) - held, limit, held)


def _swap(folder: Path, files: _Files, limit: int) -> int:
    """How many bytes of a group's memory may be swapped out."""
    free = 0
    with contextlib.suppress(OSError, ValueError, StopIteration):
        rows = Path("/proc/meminfo").read_text().splitlines()
        free = int(next(row for row in rows if row.startswith("SwapFree:")).split()[1]) * limits.KIB
    if not (folder / files.swap).exists():  # then swap is not accounted at all
        return 0
    swap = _number(folder / files.swap)
    if swap is None:
        return free
    return min(free, max(0, swap - limit if files.swap_has_limit else swap))


def _held(file: Path, names: tuple[str, ...]) -> int:
    with contextlib.suppress(OSError, ValueError):
        rows = dict(row.split() for row in file.read_text().splitlines())
        return sum(int(rows.get(name, 0)) for name in names)
    return 0


def _number(file: Path) -> int | None:
    """A limit in bytes; None if there is none: no such file, the word "max", or a huge number."""
    with contextlib.suppress(OSError, ValueError):
        number = int(file.read_text())
        return number if number < _UNLIMITED_BYTES else None
    return None
