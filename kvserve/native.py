"""Imports compiled modules, or says in a sentence why that is not possible."""

from __future__ import annotations

import importlib
import importlib.util


def load(name: str) -> None:
    """Imports a compiled module, of kvserve or one that it needs.

    Raises:
        ImportError: it was not built, or another interpreter of this process uses it; the text
            says what to do.
    """
    if name.startswith("kvserve.") and importlib.util.find_spec(name) is None:
        raise ImportError(
            "these are kvserve's sources, and its C core is not built in them; "
            "run Python from another directory, or build them in place: pip install -e ."
        )
    try:
        importlib.import_module(name)
    except ImportError as error:
        if "interpreter" not in str(error):
            raise
        # Its state (the count of forks, the open descriptors) belongs to the whole process.
        raise ImportError(
            "kvserve works in one interpreter of a process, and this is another one; run the "
            "application in the process's main interpreter (mod_wsgi: WSGIApplicationGroup "
            "%{GLOBAL}; uWSGI: single-interpreter = true), or give it a process of its own"
        ) from None
