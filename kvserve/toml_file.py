"""Reads a file of settings safely, whatever its name leads to. Knows no setting.

A running server reads it, too, on SIGHUP: so nothing here waits, as it would for the other end of
a FIFO, and every read has a bound. Any file that is no such file is reported in one sentence: the
parser itself raises RecursionError for deep nesting, and ValueError for a long number.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

from kvserve.errors import ConfigError
from kvserve.limits import CONFIG_FILE_BYTES_MAX, KIB

_VALUE_CHARACTERS = 80  # of a value in a message


def read_settings(file: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Args:
        file: a plain file, or a link to one.

    Raises:
        ConfigError: it cannot be read, or is no TOML file of a plausible size.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w") as file:
        ...     print("workers = 2", file=file, flush=True)
        ...     read_settings(Path(file.name))
        {'workers': 2}
    """
    import tomllib  # not above: every client imports this module, and few processes read a file

    content = _read(file)
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {told(error, quoted=False)}") from None
    except RecursionError:
        raise ConfigError(f"{file}: not valid TOML: it is nested too deeply") from None
    except ValueError:  # what int() and datetime() refuse
        raise ConfigError(
            f"{file}: not valid TOML: a number in it is too long, or a date is none"
        ) from None


def _read(file: Path) -> bytes:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(descriptor, "rb", buffering=0) as opened:  # noqa: PTH123 - a descriptor
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{file} is not a plain file; give the path of one")
            content = opened.read(CONFIG_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from None
    if content is None or len(content) > CONFIG_FILE_BYTES_MAX:
        size = f"{CONFIG_FILE_BYTES_MAX // KIB} KiB"
        raise ConfigError(f"{file} has more than {size}, so it is no file of settings")
    return content


def told(value: object, *, quoted: bool = True) -> str:
    """A value for a message, cut where it is long.

    Example:
        >>> told("x" * 1000)[-10:], told(10**5000)
        ('xxxxxxx...', 'a number of more than 4,300 digits')
    """
    try:
        text = repr(value) if quoted else str(value)
    except ValueError:  # Python's own bound on digits
        return "a number of more than 4,300 digits"
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    return text if len(text) <= _VALUE_CHARACTERS else text[:_VALUE_CHARACTERS] + "..."
