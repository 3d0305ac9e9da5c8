"""Clients where kvserve cannot work: refused in a sentence, which stays so."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
from support.servers import Server, StartServer

CLIENT = """
import sys, kvserve
try:
    with kvserve.connect(sys.argv[1], timeout=10, **eval(sys.argv[2])) as cache:
        print(cache.get("mortal"), cache.get("ended"))
except kvserve.KvserveError as error:
    print(type(error).__name__, error)
"""
CAN_UNSHARE = shutil.which("unshare") is not None and (
    subprocess.run(["unshare", "--time", "true"], capture_output=True, check=False).returncode == 0
)
unsharing = pytest.mark.skipif(not CAN_UNSHARE, reason="needs leave to make a time namespace")


@pytest.fixture(scope="module")
def served(make_module_server: StartServer) -> Server:
    return make_module_server("--writers", "2")


def told(server: Server, *before: str, options: str = "{}") -> str:
    """What a client in a process of its own prints."""
    command = [*before, sys.executable, "-c", CLIENT, server.name, options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@unsharing
@pytest.mark.parametrize("shift", ["--boottime", "--monotonic"])
@pytest.mark.parametrize("seconds", ["86400", "-1"])
@pytest.mark.parametrize("options", ["{}", "{'read': 'worker'}", "{'write': 'direct'}"])
def test_a_client_with_shifted_clocks(
    served: Server, shift: str, seconds: str, options: str
) -> None:
    """It would take every key with a ttl for missing, or one that has ended for there."""
    with served.connect() as cache:
        cache.set("mortal", 1, ttl=3600)
    said = told(served, "unshare", "--time", shift, seconds, options=options)
    assert said.startswith("ForeignObject the table cannot be used: ")
    assert "time namespace" in said


@unsharing
def test_a_time_namespace_that_shifts_nothing(served: Server) -> None:
    with served.connect() as cache:
        cache.set("mortal", 1, ttl=3600)
        cache.delete("ended")
    assert told(served, "unshare", "--time") == told(served) == "1 None\n"


@unsharing
def test_server_and_client_in_one(make_server: StartServer) -> None:
    """And outside of it another one, who is refused."""
    script = (
        f'"{sys.executable}" -m kvserve serve --name "$1" --memory 16MiB --shards 1 --workers 1 &\n'
        "server=$!\n"
        f'until "{sys.executable}" -m kvserve set --name "$1" mortal 1 --ttl 3600; do :; done\n'
        f'"{sys.executable}" -m kvserve get --name "$1" mortal; echo\n'
        "unshare --time --boottime 0 --monotonic 0 "
        f'"{sys.executable}" -m kvserve get --name "$1" mortal\n'
        "kill $server; wait $server\n"
        f'"{sys.executable}" -m kvserve clean --name "$1"\n'
    )
    server = make_server()
    names = server.names
    server.stop()
    inside = ["unshare", "--time", "--boottime", "1000", "sh", "-c", script, "sh", names.name]
    done = subprocess.run(inside, capture_output=True, text=True, check=False)
    assert "\n1\n" in f"\n{done.stdout}"
    assert "time namespace" in done.stderr


# A second interpreter in the process, as mod_wsgi makes one for each application.

IN_ANOTHER = """
import sys
try:
    import kvserve
    kvserve.connect(NAME)
except ImportError as error:
    open(PATH, "w").write(str(error))
else:
    open(PATH, "w").write("it worked")
"""
SECOND = """
import sys
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
import kvserve
name, path, code = sys.argv[1:]
cache = kvserve.connect(name)
cache.set("key", 1)
said = []
for _ in range(2):
    other = interpreters.create()
    for _ in range(2):
        interpreters.run_string(other, f"NAME, PATH = {name!r}, {path!r}\\n" + code)
        said.append(open(path).read())
    interpreters.destroy(other)
assert cache.get("key") == 1 and cache.incr("number") > 0
assert len(set(said)) == 1, said
print(said[0])
"""
HAS_INTERPRETERS = any(
    importlib.util.find_spec(name) for name in ("_xxsubinterpreters", "_interpreters")
)


@pytest.mark.skipif(not HAS_INTERPRETERS, reason="this Python shows no other interpreters")
def test_a_second_interpreter_of_the_process(served: Server, tmp_path: Any) -> None:
    command = [sys.executable, "-c", SECOND, served.name, str(tmp_path / "said"), IN_ANOTHER]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("kvserve works in one interpreter of a process")
    assert "WSGIApplicationGroup %{GLOBAL}" in done.stdout
