"""Names of modules and classes that mean the same in every process. No I/O but a look at a file."""

from __future__ import annotations

import sys
from pathlib import Path

_SCRIPTS = ("__main__", "__mp_main__")  # the second is what multiprocessing makes of it
_NO_FILES = ("dev", "proc")  # a script that comes through a pipe is named after the pipe


class Unsupported(Exception):
    """Something has no text that means the same in every process; the message says what, or why."""


def module_name(module: str, file: str | None) -> str:
    """A module's name; for a script its path, since every script is called `__main__`.

    Args:
        module: as a function or class has it.
        file: where the script is, if it is one.

    Raises:
        Unsupported: it was typed, piped or given as a string; other programs may use the same name.
    """
    if module not in _SCRIPTS:
        return module
    path = Path(file).absolute() if file and not file.startswith("<") else None
    if path is None or path.parts[1] in _NO_FILES or not path.is_file():
        raise Unsupported("comes from no file, as what other programs call the same may")
    return str(path)


def class_name(kind: type) -> str:
    """Module and qualified name of a class. Raises as `module_name`."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return f"{module_name(kind.__module__, file)}.{kind.__qualname__}"
