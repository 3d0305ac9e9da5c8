"""What the Flask shop gains by kvserve: `python docs/examples/flask/measure.py [--seconds 5]`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from visitors import compare, make_sales  # noqa: E402

if __name__ == "__main__":
    compare("app:app", HERE, lambda directory: make_sales(directory / "sales.db"), sys.argv[1:])
