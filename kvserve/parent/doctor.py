"""Checks the limits of the system: one sentence for each, and the command that mends it."""

from __future__ import annotations

import os
import re
import resource
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvserve import limits
from kvserve.config import Config, format_size
from kvserve.errors import ForeignObject, LimitError, ServerUnavailable
from kvserve.names import Names
from kvserve.parent.housekeeping import memory_path, semaphore_path
from kvserve.runtime import holder, verify_directory
from kvserve.transport.mqueue import create_queues, unlink_queue

DESCRIPTORS_OF_A_WORKER = 64  # its own, beside the two of each client
_SYSTEM_UID_MAX = 999  # systemd removes nothing of users up to here
# The inodes that Linux gives to the first namespaces, see include/linux/proc_ns.h.
_FIRST_NAMESPACES = {"ipc": 0xEFFF_FFFF, "pid": 0xEFFF_FFFC}
_REMOVE_IPC = re.compile(r"^\s*RemoveIPC\s*=\s*(\S+)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Args:
        check: its name.
        ok: nothing is wrong.
        fatal: if something is wrong, then a server cannot start.
        text: one sentence.
        mend: the command that mends it; empty when there is nothing to mend.
    """

    check: str
    ok: bool
    fatal: bool
    text: str
    mend: str = ""


def doctor(names: Names, config: Config) -> list[Finding]:
    """Runs all checks. Nothing is changed; queues are made under a random name, and removed.

    Args:
        names: the instance that would be served.
        config: how it would be served.

    Example:
        >>> from kvserve.names import instance
        >>> [finding.check for finding in doctor(instance("docs"), Config(name="docs"))][:2]
        ['shared memory', 'memory limit']
    """
    checks: tuple[Callable[[Names, Config], Finding], ...] = (
        check_shared_memory,
        check_memory_limit,
        check_queues,
        check_descriptors,
        check_logout,
        check_namespaces,
        check_permissions,
        check_leftovers,
        check_served,
    )
    return [check(names, config) for check in checks]


def start_checks(names: Names, config: Config) -> None:
    """The checks without which a server must not begin to make anything.

    The queues are not among them: the start makes these first, and undoes it if they do not fit.

    Raises:
        ForeignObject: an object of this name is somebody else's.
        LimitError: any other fatal finding, with its mending command.
    """
    permissions = check_permissions(names, config)
    if not permissions.ok:
        raise ForeignObject(f"{permissions.text}; mend: {permissions.mend}")
    memory = check_shared_memory(names, config)
    if not memory.ok:
        raise LimitError(f"{memory.text}; mend: {memory.mend}")


def check_shared_memory(
    names: Names, config: Config, directory: Path = Path("/dev/shm")
) -> Finding:
    """Whether the table fits into what is free, counting what a kept table would give back."""
    check = "shared memory"
    try:
        status = os.statvfs(directory)
    except OSError as error:
        text = f"{directory} cannot be used: {error.strerror}"
        mend = f"mkdir -p {directory} && mount -t tmpfs -o mode=1777 tmpfs {directory}"
        return Finding(check, False, True, text, mend)
    free = status.f_bavail * status.f_frsize
    kept = sum(_allocated(memory_path(name)) for name in (names.table, names.hints))
    if free + kept < config.memory:
        return Finding(check, False, True, *memory_shortage(config.memory, directory))
    text = f"{format_size(free + kept)} of {directory} are free for {format_size(config.memory)}"
    return Finding(check, True, True, text)


def memory_shortage(memory: int, directory: Path = Path("/dev/shm")) -> tuple[str, str]:
    """The sentence and the mending command when `memory` bytes do not fit into `directory`."""
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    total = status.f_blocks * status.f_frsize
    wanted_mib = -(-(total - free + memory) // limits.MIB) + 1
    return (
        f"{directory} has {format_size(free)} free, but the table needs {format_size(memory)}",
        f"mount -o remount,size={wanted_mib}m {directory} "
        f"(of a container: --shm-size={wanted_mib}m), or serve with a smaller --memory",
    )


def check_memory_limit(
    _names: Names, config: Config, file: Path = Path("/sys/fs/cgroup/memory.max")
) -> Finding:
    """Whether the control group may use that much: a tmpfs counts as its writers' memory."""
    check = "memory limit"
    try:
        limit = int(file.read_text())
    except (OSError, ValueError):  # no such control group, or the word "max"
        return Finding(check, True, False, "no control group limits the memory")
    if limit < config.memory:
        text = (
            f"the control group may use {format_size(limit)}, less than the table's "
            f"{format_size(config.memory)}: whoever fills the table is killed"
        )
        mend = "give the container a larger --memory limit, or serve with a smaller --memory"
        return Finding(check, False, False, text, mend)
    return Finding(check, True, False, f"the control group may use {format_size(limit)}")


def check_queues(names: Names, config: Config) -> Finding:
    """Whether message queues exist here and how large they may be, by making some."""
    check = "message queues"
    if holder(names) is not None:
        return Finding(check, True, True, "the running server has its queues")
    count = config.workers or min(len(os.sched_getaffinity(0)), limits.WORKERS_DEFAULT_MAX)
    probe = Names(f"doctor-{secrets.token_hex(4)}", names.runtime_directory)
    try:
        depth, message_bytes = create_queues(
            probe, count, config.queue_depth, config.queue_message, 0o600, None
        )
    except LimitError as error:
        text, _, mend = str(error).partition("; ")
        return Finding(check, False, True, text, mend)
    finally:
        for worker in range(count):
            unlink_queue(probe.worker_queue(worker))
    text = f"{count} queues of {depth} messages of {format_size(message_bytes)} each"
    if (depth, message_bytes) == (config.queue_depth, config.queue_message):
        return Finding(check, True, True, text)
    return Finding(
        check,
        True,
        True,
        f"{text}, lowered to the system's limits, which costs some throughput under load",
        f"sysctl fs.mqueue.msg_max={config.queue_depth} fs.mqueue.msgsize_max="
        f"{config.queue_message} and ulimit -q unlimited",
    )


def check_descriptors(_names: Names, _config: Config) -> Finding:
    """How many clients a worker can serve; it raises its soft limit to the hard one."""
    check = "file descriptors"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * limits.SESSIONS_MAX + DESCRIPTORS_OF_A_WORKER
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        text = f"enough for {limits.SESSIONS_MAX} clients"
        return Finding(check, True, False, text)
    clients = max(0, hard - DESCRIPTORS_OF_A_WORKER) // 2
    text = f"at most {hard} file descriptors: a worker can serve {clients} clients at a time"
    return Finding(check, False, False, text, f"ulimit -Hn {wanted}, or LimitNOFILE={wanted}")


def check_logout(
    _names: Names, _config: Config, root: Path = Path("/"), uid: int | None = None
) -> Finding:
    """Whether systemd would remove the kernel objects when this user logs out."""
    check = "logout"
    uid = os.geteuid() if uid is None else uid
    if not (root / "run/systemd/system").is_dir():
        return Finding(check, True, False, "systemd does not run here, so a logout removes nothing")
    if uid <= _SYSTEM_UID_MAX:
        return Finding(check, True, False, "systemd removes nothing of root and system users")
    if not _removes_ipc(root):
        return Finding(check, True, False, "systemd's RemoveIPC is off")
    return Finding(
        check,
        False,
        False,
        f"systemd removes the cache when uid {uid} logs out (RemoveIPC)",
        "mkdir -p /etc/systemd/logind.conf.d && printf '[Login]\\nRemoveIPC=no\\n' "
        "> /etc/systemd/logind.conf.d/kvserve.conf && systemctl restart systemd-logind "
        "(or serve as a system user)",
    )


def _removes_ipc(root: Path) -> bool:
    folders = [root / folder / "systemd" for folder in ("usr/lib", "run", "etc")]
    files = [folder / "logind.conf" for folder in folders]
    # Of two drop-ins the one with the later name wins, wherever it is.
    drop_ins = [file for folder in folders for file in folder.glob("logind.conf.d/*.conf")]
    files += sorted(drop_ins, key=lambda file: file.name)
    word = "yes"  # systemd's default
    for file in files:
        try:
            words = _REMOVE_IPC.findall(file.read_text(errors="replace"))
        except OSError:
            continue
        word = words[-1] if words else word
    return word.lower() not in ("no", "false", "off", "n", "f", "0")


def check_namespaces(
    _names: Names, _config: Config, directory: Path = Path("/proc/self/ns")
) -> Finding:
    """Tells who else can see the instance."""
    own = [kind for kind, first in _FIRST_NAMESPACES.items() if _inode(directory / kind) != first]
    if not own:
        text = "the host's ipc and pid namespaces: every process of the host can be a client"
    else:
        text = (
            f"own {' and '.join(own)} namespace, as in a container: clients outside of it need "
            "the same one (--ipc, --pid), the same /dev/shm and the same runtime directory"
        )
    return Finding("namespaces", True, False, text)


def check_permissions(names: Names, _config: Config) -> Finding:
    """Whether what exists under the instance's names is ours."""
    check = "permissions"
    paths = [memory_path(name) for name in (names.table, names.hints)]
    paths += [semaphore_path(names.shard_semaphore(shard)) for shard in range(limits.SHARDS_MAX)]
    for path in paths:
        try:
            owner = path.lstat().st_uid
        except FileNotFoundError:
            continue
        if owner != os.geteuid():
            text = f"{path} belongs to uid {owner}, not to uid {os.geteuid()}"
            mend = f"use another --name, or as its owner: kvserve clean --name {names.name}"
            return Finding(check, False, True, text, mend)
    try:
        owner = verify_directory(names)
    except ServerUnavailable:
        return Finding(check, True, True, "no object of this name is in the way")
    except ForeignObject as error:
        text, _, mend = str(error).partition("; ")
        return Finding(check, False, True, text, mend or "use another --name")
    if owner != os.geteuid():
        text = f"{names.runtime_directory} belongs to uid {owner}"
        return Finding(check, False, True, text, "use another --name, or KVSERVE_RUNTIME_DIR")
    return Finding(check, True, True, "what exists under this name is ours")


def check_leftovers(names: Names, _config: Config) -> Finding:
    """What a server that does not run any more has left."""
    check = "leftovers"
    if holder(names) is not None:
        return Finding(check, True, False, "none: the server runs")
    kept = memory_path(names.table).exists()
    table = f"a table of {format_size(_allocated(memory_path(names.table)))} is kept"
    hint = f"the next serve takes it over, kvserve clean --name {names.name} removes it"
    if names.manifest.exists():
        also = f", and {table}" if kept else ""
        text = f"a server of this name was killed{also}: {hint}"
    else:
        text = f"{table}: {hint}" if kept else "none"
    return Finding(check, True, False, text)


def check_served(names: Names, _config: Config) -> Finding:
    """Whether somebody serves the instance."""
    pid = holder(names)
    text = "nobody serves this name" if pid is None else f"served by pid {pid or '(unknown)'}"
    return Finding("server", True, False, text)


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
