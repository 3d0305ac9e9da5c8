"""The table in shared memory. Knows keys, payloads and locks; nothing of requests or clients."""

import importlib.util

if importlib.util.find_spec("kvserve.table._core") is None:
    raise ImportError(
        "these are kvserve's sources, and its C core is not built in them; "
        "run Python from another directory, or build them in place: pip install -e ."
    )
