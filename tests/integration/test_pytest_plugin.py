"""kvserve.testing as users run it: real runs of pytest and unittest, ended in every way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Eventually
from support.leftovers import children, leftovers
from support.testing_plugin import LOAD_PLUGIN

from kvserve.names import Names

# Those of our own test run that take long to import.
WITHOUT_OTHERS = [f"-pno:{name}" for name in ("hypothesispytest", "benchmark", "valkey")]
APPLICATION = """
import kvserve

def visit():
    with kvserve.connect() as cache:
        return cache.incr("visits")
"""
NOTE = """
import os
from pathlib import Path

def note():
    with Path("servers").open("a") as file:
        print(os.environ["KVSERVE_NAME"], os.environ["KVSERVE_RUNTIME_DIR"], file=file)
"""
# For tests that something interrupts: it says when it begins, and does not end by itself.
ENDLESS = """
import os, time
from pathlib import Path
from note import note

def test_without_end(kvserve_cache):
    kvserve_cache.set("key", "value")
    {fork}
    note()
    time.sleep(60)
"""
FORKING = "if os.fork() == 0: time.sleep(60); os._exit(0)"


class Project:
    """A directory with a program and its tests, to be run by pytest."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.write("pytest.ini", "[pytest]\nfilterwarnings = error\n")
        self.write("application.py", APPLICATION)
        self.write("note.py", NOTE)

    def write(self, name: str, text: str) -> None:
        """Makes a file."""
        (self._directory / name).write_text(text)

    def begin(self, *command: str) -> subprocess.Popen[str]:
        """Starts a command in the directory, as the leader of a process group."""
        environment = os.environ | {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:{self._directory}"}
        return subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self._directory,
            env=environment,
            start_new_session=True,
        )

    def pytest(self, *flags: str) -> subprocess.Popen[str]:
        """Starts pytest."""
        return self.begin("-m", "pytest", *WITHOUT_OTHERS, *LOAD_PLUGIN, *flags)

    def run(self, *flags: str, status: int = 0) -> str:
        """Runs pytest to its end; returns what it printed."""
        running = self.pytest(*flags)
        output, _ = running.communicate()
        assert running.returncode == status, output
        return output

    @property
    def servers(self) -> set[Names]:
        """The servers that the tests noted."""
        path = self._directory / "servers"
        lines = path.read_text().splitlines() if path.exists() else []
        pairs = {tuple(line.split()) for line in lines}
        return {Names(name, Path(root) / name) for name, root in pairs}


@pytest.fixture
def project(tmp_path: Path, eventually: Eventually) -> Iterator[Project]:
    """A project; after the test, nothing of the servers that it noted is left."""
    made = Project(tmp_path)
    yield made
    for names in made.servers:
        eventually(lambda names=names: leftovers(names) == [])
        eventually(lambda names=names: not names.runtime_directory.parent.exists())


def test_program_finds_an_empty_server_in_each_test(project: Project) -> None:
    project.write(
        "test_program.py",
        """
import asyncio, os, subprocess, sys
import pytest
import application
from note import note

@pytest.fixture(scope="session", autouse=True)
def at_the_end(request):
    before = os.environ.get("KVSERVE_NAME")
    yield
    assert os.environ.get("KVSERVE_NAME") == before

@pytest.mark.parametrize("turn", [1, 2])
def test_visits(turn, kvserve_cache):
    note()
    assert application.visit() == 1
    assert kvserve_cache["visits"] == 1
    subprocess.run([sys.executable, "-c", "import application as a; a.visit()"], check=True)
    assert kvserve_cache["visits"] == 2

@pytest.mark.parametrize("turn", [1, 2])
def test_with_asyncio(turn, kvserve_async_cache):
    assert asyncio.run(kvserve_async_cache.incr("visits")) == 1

def test_without_server(kvserve_server, kvserve_cache):
    kvserve_cache.set("key", "value")
    kvserve_server.stop()
    assert kvserve_cache.get("key") == "value"
    with pytest.raises(Exception, match="is running"):
        application.visit()
    kvserve_server.start()
    assert kvserve_cache["key"] == "value"
    kvserve_server.stop()

def test_that_needs_it_again(kvserve_cache):
    assert application.visit() == 1
""",
    )
    assert "6 passed" in project.run()
    assert len(project.servers) == 1


def test_every_worker_of_xdist_has_its_own(project: Project) -> None:
    project.write(
        "test_program.py",
        """
import pytest, application
from note import note

@pytest.mark.parametrize("turn", range(40))
def test_visits(turn, kvserve_cache):
    note()
    assert [application.visit() for _ in range(5)] == [1, 2, 3, 4, 5]
""",
    )
    assert "40 passed" in project.run("-n", "2")
    assert len(project.servers) == 2


@pytest.mark.parametrize("flags", [[], ["-n", "2"]], ids=["one process", "xdist"])
def test_autostart_is_before_any_import(project: Project, flags: list[str]) -> None:
    project.write(
        "pytest.ini",
        "[pytest]\nfilterwarnings = error\nkvserve_autostart = true\n"
        "kvserve_settings =\n    default_ttl = 7.5\n    max-value = 64KiB\n",
    )
    project.write("shop.py", "import kvserve\ncache = kvserve.connect()\n")
    project.write("conftest.py", "import shop\n")
    project.write(
        "test_shop.py",
        """
import kvserve, pytest, shop
from note import note

@pytest.mark.parametrize("turn", range(4))
def test_shop(turn, kvserve_cache):
    note()
    shop.cache.add("cart", 1)
    assert 7 < kvserve_cache.ttl("cart") <= 7.5
    with pytest.raises(kvserve.ValueTooLarge):
        shop.cache.set("cart", "x" * 70_000)
""",
    )
    if flags:
        # The process that distributes the tests imports it, too, and has no server.
        note_it = "import note, os\nif 'KVSERVE_NAME' in os.environ: note.note()\n"
        project.write("conftest.py", note_it)
    assert "4 passed" in project.run(*flags)
    assert len(project.servers) == (2 if flags else 1)


OVERRIDE = """
import pytest

@pytest.fixture(scope="session")
def kvserve_settings(kvserve_settings):
    return kvserve_settings | {settings}
"""


def test_settings_are_a_fixture_to_override(project: Project) -> None:
    project.write("conftest.py", OVERRIDE.format(settings={"writers": 1}))
    project.write(
        "test_program.py",
        """
from note import note

def test_settings(kvserve_server):
    note()
    with kvserve_server.connect(write="direct") as cache:
        cache.set("key", "value")
        assert cache.get("key") == "value"
""",
    )
    assert "1 passed" in project.run()
    project.write("conftest.py", OVERRIDE.format(settings={"writers": "many"}))
    assert "ConfigError: writers" in project.run(status=1)
    project.write("pytest.ini", "[pytest]\nkvserve_autostart = true\n")
    assert "before the fixture kvserve_settings" in project.run(status=1)


@pytest.mark.parametrize("wrong", ["memory", "memory = lots", "name = shop", "colour = red"])
def test_wrong_settings_are_named(project: Project, wrong: str) -> None:
    project.write("pytest.ini", f"[pytest]\nkvserve_settings =\n    {wrong}\n")
    project.write("test_program.py", "def test_it(kvserve_cache): pass\n")
    assert re.search(rf"{wrong.split()[0]}\b", project.run(status=1).partition("Error")[2])


def test_autostart_that_fails_says_why(project: Project) -> None:
    project.write(
        "pytest.ini", "[pytest]\nkvserve_autostart = true\nkvserve_settings = workers=900\n"
    )
    output = project.run(status=pytest.ExitCode.USAGE_ERROR)
    assert "ERROR: kvserve_autostart: workers" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("fork", ["pass", FORKING], ids=["alone", "with a forked child"])
def test_nothing_is_left_of_a_killed_run(
    project: Project, fork: str, eventually: Eventually
) -> None:
    project.write("test_program.py", ENDLESS.format(fork=fork))
    running = project.pytest()
    eventually(lambda: project.servers or running.poll() is not None)
    offspring = [pid for pid, line in children(running.pid).items() if "supervisor" not in line]
    running.kill()
    running.wait()
    (names,) = project.servers
    eventually(lambda: leftovers(names) == [])
    for pid in offspring:  # the child has seen the server go, although it holds the pipes to it
        os.kill(pid, signal.SIGKILL)
    assert running.stdout is not None
    running.stdout.close()


def test_nothing_is_left_after_ctrl_c(project: Project, eventually: Eventually) -> None:
    project.write("test_program.py", ENDLESS.format(fork="pass"))
    project.write(
        "conftest.py",
        """
import pytest

@pytest.fixture(autouse=True)
def used_at_the_end(kvserve_cache):
    yield
    print("visits", kvserve_cache.incr("visits"))
""",
    )
    running = project.pytest("-s")
    eventually(lambda: project.servers or running.poll() is not None)
    os.killpg(running.pid, signal.SIGINT)
    output, _ = running.communicate()
    assert running.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "visits 1" in output
    (names,) = project.servers
    assert leftovers(names) == []
    assert not names.runtime_directory.parent.exists()


def test_forks_of_a_test_leave_the_server_alone(project: Project) -> None:
    project.write(
        "test_program.py",
        """
import multiprocessing, os, sys
import application
from note import note

def test_forks(kvserve_server, kvserve_cache):
    note()
    for _ in range(3):
        if (pid := os.fork()) == 0:
            kvserve_cache.incr("visits")
            kvserve_server.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    spawning = multiprocessing.get_context("spawn")
    process = spawning.Process(target=application.visit)
    process.start()
    process.join()
    assert kvserve_cache["visits"] == 4
    assert kvserve_server.pid
""",
    )
    assert "1 passed" in project.run()


def test_plugin_imports_nothing_that_costs_time(project: Project) -> None:
    project.write(
        "test_program.py",
        """
import sys

def test_modules():
    ours = {name for name in sys.modules if name.split(".")[0] in ("kvserve", "uvloop", "msgpack")}
    assert ours == {
        "kvserve", "kvserve.errors", "kvserve.testing", "kvserve.testing.pytest_plugin"
    }
""",
    )
    assert "1 passed" in project.run()


def test_unittest(project: Project) -> None:
    project.write(
        "test_unit.py",
        """
import unittest
import application, kvserve.testing
from note import note

def setUpModule():
    unittest.enterModuleContext(kvserve.testing.server(memory="8MiB"))

class Visits(unittest.TestCase):
    def test_visits(self):
        note()
        self.assertEqual(application.visit(), 1)
""",
    )
    running = project.begin("-X", "dev", "-W", "error", "-m", "unittest", "test_unit")
    output, _ = running.communicate()
    assert running.returncode == 0, output
    assert "ResourceWarning" not in output
    assert len(project.servers) == 1
