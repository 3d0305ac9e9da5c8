"""What the Django shop gains by kvserve: `python docs/examples/django/measure.py [--seconds 5]`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from visitors import compare, make_sales  # noqa: E402


def prepare(directory: Path) -> None:
    """The sales, and the table of sessions."""
    make_sales(directory / "sales.db")
    command = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
    command += ["--settings", "settings", "--pythonpath", str(HERE)]
    subprocess.run(command, check=True, cwd=directory, env=os.environ)


if __name__ == "__main__":
    compare("application:application", HERE, prepare, sys.argv[1:])
