"""What `kvserve doctor` checks of the system: memory, queues, descriptors, logout, namespaces."""

from __future__ import annotations

import os
import re
import resource
import secrets
from pathlib import Path

from kvserve import limits
from kvserve.config import Config
from kvserve.errors import ForeignObject, LimitError, ServerUnavailable
from kvserve.manifest import Manifest
from kvserve.names import SHARED_MEMORY, Names, memory_path
from kvserve.objects import user_name
from kvserve.parent.finding import Finding
from kvserve.parent.starting import workers_wanted
from kvserve.runtime import holder
from kvserve.shortages import ADDRESS_SPACE_FIX, FILE_SIZE_FIX
from kvserve.transport.mqueue import MESSAGE_OVERHEAD_BYTES, create_queues, unlink_queue
from kvserve.units import format_size

DESCRIPTORS_OF_A_WORKER = 64  # its own, beside two for each client
_SYSTEM_UID_MAX = 999  # systemd removes no objects of users up to this uid
_CAP_SYS_RESOURCE = 24  # see linux/capability.h
# The inodes that Linux gives to the first namespaces, see include/linux/proc_ns.h.
_FIRST_NAMESPACES = {"ipc": 0xEFFF_FFFF, "pid": 0xEFFF_FFFC}
_REMOVE_IPC = re.compile(r"^\s*RemoveIPC\s*=\s*(\S+)", re.MULTILINE | re.IGNORECASE)


def check_shared_memory(names: Names, config: Config, directory: Path = SHARED_MEMORY) -> Finding:
    """Whether the table fits into the free memory plus what a kept table would give back."""
    check = "shared memory"
    try:
        status = os.statvfs(directory)
    except OSError as error:
        text = f"{directory} cannot be used: {error.strerror}"
        fix = f"mkdir -p {directory} && mount -t tmpfs -o mode=1777 tmpfs {directory}"
        return Finding(check, False, True, text, fix)
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        text = f"{directory} cannot be written by {user_name(os.geteuid())}"
        return Finding(check, False, True, text, f"mount -o remount,rw,mode=1777 {directory}")
    free = status.f_bavail * status.f_frsize
    kept = kept_bytes(names)
    if free + kept < config.memory:
        return Finding(check, False, True, *memory_shortage(config.memory, directory))
    if refusal := _limited_process(config.memory, kept):
        return Finding(check, False, True, *refusal)
    text = f"{format_size(free + kept)} of {directory} are free for {format_size(config.memory)}"
    return Finding(check, True, True, text)


def memory_shortage(memory: int, directory: Path = SHARED_MEMORY) -> tuple[str, str]:
    """The sentence for when `memory` bytes do not fit into `directory`, and the fixing command."""
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    total = status.f_blocks * status.f_frsize
    wanted_mib = -(-(total - free + memory) // limits.MIB) + 1
    return (
        f"{directory} has {format_size(free)} free, but the table needs {format_size(memory)}",
        f"mount -o remount,size={wanted_mib}m {directory} "
        f"(of a container: --shm-size={wanted_mib}m), or serve with a smaller --memory",
    )


def _limited_process(memory: int, kept: int) -> tuple[str, str] | None:
    """The sentence for when a limit on this process is too low, and the command that fixes it.

    Args:
        memory: how much it is to make and map, in bytes.
        kept: how much of that exists already.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if kept < memory and 0 <= soft < memory:
        text = (
            f"a file may have {format_size(soft)} here, but the table needs {format_size(memory)}"
        )
        return text, FILE_SIZE_FIX
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if 0 <= soft < taken + memory:
        text = (
            f"a process may use {format_size(soft)} of address space, of which it has taken "
            f"{format_size(taken)}, but the table needs {format_size(memory)}"
        )
        return text, ADDRESS_SPACE_FIX
    return None


def kept_bytes(names: Names) -> int:
    """How much memory a kept table takes already, in bytes."""
    return sum(_allocated_bytes(memory_path(name)) for name in (names.table, names.hints))


def _allocated_bytes(path: Path) -> int:
    """How much memory a file takes, in bytes; 0 if it does not exist."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def check_queues(names: Names, config: Config) -> Finding:
    """Whether message queues exist here and how large they may be, found out by making some."""
    check = "message queues"
    served = _served_queues(names)  # no more may fit beside these
    count = served[0] if served else workers_wanted(config)
    wanted = count, config.queue_depth, config.queue_message
    try:
        got = served or _probe_queues(names, *wanted)
    except LimitError as error:
        text, _, fix = str(error).partition("; ")
        if "RLIMIT_MSGQUEUE" in text:
            fix = _fix_limit(*wanted)
        return Finding(check, False, True, text, fix)
    plural = "s" if count > 1 else ""
    text = f"for {count} worker{plural}, queues of {got[1]} messages of {format_size(got[2])} each"
    if got[1] >= wanted[1] and got[2] >= wanted[2]:
        return Finding(check, True, True, text)
    text += f"; {wanted[1]} of {format_size(wanted[2])}, as configured, would bear more load"
    return Finding(check, True, True, text, queue_fix(*wanted))


def _served_queues(names: Names) -> tuple[int, int, int] | None:
    """A running server's queues: how many, their depth and message size."""
    try:
        if holder(names) is not None:
            manifest = Manifest.read(names)
            return manifest.workers, manifest.queue_depth, manifest.queue_message_bytes
    except (ForeignObject, ServerUnavailable):
        pass  # another check reports it
    return None


def _probe_queues(names: Names, count: int, depth: int, message_bytes: int) -> tuple[int, int, int]:
    probe = Names(f"doctor-{secrets.token_hex(4)}", names.runtime_directory)
    try:
        return count, *create_queues(probe, count, depth, message_bytes, 0o600, None)
    finally:
        for worker in range(count):
            unlink_queue(probe.worker_queue(worker))


def queue_fix(
    count: int, depth: int, message_bytes: int, sysctls: Path = Path("/proc/sys/fs/mqueue")
) -> str:
    """The commands that allow so many queues of this depth and message size."""
    steps = []
    wanted = {"msg_max": depth, "msgsize_max": message_bytes}
    over = [f"fs.mqueue.{name}={n}" for name, n in wanted.items() if _number(sysctls / name) < n]
    if over and not _passes_over_sysctls():
        options = " ".join(f"--sysctl {setting}" for setting in over)
        steps.append(f"sysctl {' '.join(over)} (of a container: {options})")
    soft, _ = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    if not steps or 0 <= soft < _accounted_bytes(count, depth, message_bytes):
        steps.append(_fix_limit(count, depth, message_bytes))
    return ", and ".join(steps)


def _fix_limit(count: int, depth: int, message_bytes: int) -> str:
    """How to raise RLIMIT_MSGQUEUE by what these queues take.

    By all of it, because the system does not report how much of the limit is in use.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    limit = max(soft, 0) + _accounted_bytes(count, depth, message_bytes)
    return (
        f"ulimit -q {limit}, as root (of a service: LimitMSGQUEUE={limit}; "
        f"of a container: --ulimit msgqueue={limit})"
    )


def _accounted_bytes(count: int, depth: int, message_bytes: int) -> int:
    """What the system counts against the limit, see getrlimit(2)."""
    return count * depth * (message_bytes + MESSAGE_OVERHEAD_BYTES)


def _number(file: Path) -> int:
    """The number in a file of /proc/sys; if it cannot be read, as if there were no limit."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return limits.MEMORY_BYTES_MAX


def _passes_over_sysctls() -> bool:
    """Whether this process has CAP_SYS_RESOURCE, to which fs.mqueue.* do not apply."""
    rows = Path("/proc/self/status").read_text().splitlines()
    effective = next(row for row in rows if row.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)


def check_descriptors(_names: Names, _config: Config) -> Finding:
    """How many clients a worker can serve; it raises its soft limit to the hard one."""
    check = "file descriptors"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * limits.SESSIONS_MAX + DESCRIPTORS_OF_A_WORKER
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        text = f"enough for {limits.SESSIONS_MAX} clients"
        return Finding(check, True, False, text)
    clients = max(0, hard - DESCRIPTORS_OF_A_WORKER) // 2  # with 0 a worker does not even start
    text = f"at most {hard} file descriptors: a worker can serve {clients} clients at a time"
    fix = (
        f"ulimit -Hn {wanted}, as root (of a service: LimitNOFILE={wanted}; "
        f"of a container: --ulimit nofile={wanted})"
    )
    return Finding(check, False, not clients, text, fix)


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
    # Of two drop-ins the one whose name sorts later wins, wherever it is.
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
    """Reports which other processes can see the instance."""
    own = [kind for kind, first in _FIRST_NAMESPACES.items() if _inode(directory / kind) != first]
    if not own:
        text = "the host's ipc and pid namespaces: every process of the host can be a client"
    else:
        text = (
            f"own {' and '.join(own)} namespace, as in a container: clients outside of it need "
            "the same one (--ipc, --pid), the same /dev/shm and the same runtime directory"
        )
    return Finding("namespaces", True, False, text)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
