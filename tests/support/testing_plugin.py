"""How the tests have pytest load our plugin."""

from __future__ import annotations

from importlib.metadata import entry_points

# An editable installation that is older than the plugin does not name it; a wheel does.
IS_NAMED = "kvserve" in entry_points(group="pytest11").names
LOAD_PLUGIN = [] if IS_NAMED else ["-p", "kvserve.testing.pytest_plugin"]
