"""The benchmarks, a module for each question: `python -m benchmarks.NAME`; all: `-m benchmarks`.

They measure the kvserve that is installed. `python -m` puts this directory's parent first in the
path, where the sources lie without their compiled core; so that entry goes last.
"""

import sys
from pathlib import Path

if sys.path[0] in ("", str(Path(__file__).resolve().parents[1])):
    sys.path.append(sys.path.pop(0))
