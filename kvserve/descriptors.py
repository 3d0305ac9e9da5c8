"""Descriptors that belong to an object, and the count of forks; see _descriptors.pyx."""

from kvserve import native

native.load("kvserve._descriptors")

from kvserve._descriptors import (  # noqa: E402 - only now is it known to be there
    Descriptor,
    LockGuard,
    MadeFifo,
    close_inherited,
    fork_count,
)

__all__ = ["Descriptor", "LockGuard", "MadeFifo", "close_inherited", "fork_count"]
