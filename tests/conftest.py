"""What all tests share: random instances, real servers, the search for leftovers, a watchdog.

Every instance of a test has a random name, so tests can run beside each other and beside a server
in use. A test that leaves an object or a process of its instance behind fails.
"""

from __future__ import annotations

import faulthandler
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import kvserve
from kvserve.names import Names

# Tests import each other's parts by their path from here: support.model, for one.
sys.path.insert(0, str(Path(__file__).parent))

from support.leftovers import children, end_processes, leftovers, remove_leftovers
from support.seeds import derived, line
from support.servers import Server, StartServer, clean_up

TESTS = Path(__file__).parent
WATCHDOG_SECONDS = 120.0  # far beyond any test; only a hang lasts as long
THOROUGH_FACTOR = 100  # as many more steps are taken by the profile of this name
PATIENCE_SECONDS = 30.0  # how long `eventually` waits for what must come

NewNames = Callable[[], Names]
Eventually = Callable[[Callable[[], object]], None]

settings.register_profile(
    "ci",
    deadline=None,  # a time limit would fail on a slow machine and find nothing
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough", settings.get_profile("ci"), max_examples=2000, stateful_step_count=200
)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.load_profile(PROFILE)


def pytest_configure(config: pytest.Config) -> None:
    """Declares our markers, and keeps a way to the terminal for the watchdog."""
    # What a script starts with `&` ignores Ctrl-C, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "watchdog(seconds): how long this test may take at most")
    config.addinivalue_line("markers", "ways(*names): the ways of access a behaviour applies to")
    config.addinivalue_line("markers", "time_intensive: dogpile.cache's, of tests that wait")
    config.stash[_TERMINAL] = os.dup(2)  # capturing is suspended during this hook


def pytest_report_header() -> str:
    """The seed, so that it is known of a run that ended in any way."""
    return line()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What a random test draws from: another one in each run, see seeds.py."""
    number = derived(request.node.nodeid)
    print(f"seed {number}; {line()}")
    return number


def pytest_unconfigure(config: pytest.Config) -> None:
    """Closes what `pytest_configure` opened."""
    os.close(config.stash[_TERMINAL])


_TERMINAL = pytest.StashKey[int]()


@pytest.fixture(autouse=True)
def watchdog(request: pytest.FixtureRequest) -> None:
    """Ends a run that hangs, with every thread's traceback.

    Pytest's own faulthandler_timeout only prints. It also takes our timer back after each test.
    """
    marker = request.node.get_closest_marker("watchdog")
    seconds = float(marker.args[0]) if marker else WATCHDOG_SECONDS
    if PROFILE == "thorough":
        seconds *= THOROUGH_FACTOR
    terminal = request.config.stash[_TERMINAL]
    faulthandler.dump_traceback_later(seconds, exit=True, file=terminal)


@pytest.fixture(scope="session", autouse=True)
def one_kvserve() -> Iterator[None]:
    """Every process that a test starts imports the kvserve that the tests import.

    That is the installed one, when it is tested: the source tree, in which we may stand, has no
    compiled core.
    """
    with pytest.MonkeyPatch.context() as patch:
        package = Path(kvserve.__file__).parents[1]
        patch.setenv("PYTHONPATH", os.pathsep.join([str(package), str(TESTS)]))
        patch.setenv("PYTHONSAFEPATH", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def runtime_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory above all runtime directories. Clients and servers find it by environment."""
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVSERVE_RUNTIME_DIR", str(root))
        for variable in [name for name in os.environ if name.startswith("KVSERVE_")]:
            if variable != "KVSERVE_RUNTIME_DIR":
                patch.delenv(variable)
        yield root


@pytest.fixture(scope="session", autouse=True)
def issued() -> Iterator[list[Names]]:
    """Every instance of the session, in order. At the end nothing of any may be left."""
    names: list[Names] = []
    yield names
    left = [trace for each in names for trace in leftovers(each)]
    assert not left, f"the tests left behind: {', '.join(left)}"


@pytest.fixture(autouse=True)
def own_instances(issued: list[Names]) -> Iterator[list[Names]]:
    """The instances that this test alone uses. It fails if something of them or a child is left.

    It is set up before the test's servers, so it looks after they are gone. The instances of a
    whole module are looked after by the fixture that made them, and at the end of the session.
    """
    own: list[Names] = []
    children_before = children()
    yield own
    left = [trace for each in own for trace in leftovers(each)]
    left += [
        f"process {pid}: {command}"
        for pid, command in children().items()
        if pid not in children_before
        and not any(each.name in command for each in issued)
        and "multiprocessing" not in command  # its tracker stays until we end
    ]
    if left:
        for each in own:
            remove_leftovers(each)
    assert not left, f"the test left behind: {', '.join(left)}"


@pytest.fixture
def new_names(runtime_root: Path, issued: list[Names], own_instances: list[Names]) -> NewNames:
    """Makes the names of a new instance of this test. Nothing is made under them yet."""

    def make() -> Names:
        own_instances.append(_random_names(runtime_root, issued))
        return own_instances[-1]

    return make


@pytest.fixture
def names(new_names: NewNames) -> Names:
    """The names of an instance that only this test uses. Nothing is made under them yet."""
    return new_names()


@pytest.fixture(scope="module")
def module_names(runtime_root: Path, issued: list[Names]) -> Names:
    """The names of an instance that a module's tests share."""
    return _random_names(runtime_root, issued)


def _random_names(runtime_root: Path, issued: list[Names]) -> Names:
    name = f"test-{secrets.token_hex(4)}"
    issued.append(Names(name, runtime_root / name))
    return issued[-1]


@pytest.fixture
def make_server(new_names: NewNames, tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers, `make_server("--workers", "3")`, and stops and cleans them after the test.

    Give the names of an earlier one to start it again: `make_server(names=server.names)`.
    """
    yield from serve_and_clean(new_names, tmp_path)


@pytest.fixture(scope="module")
def make_module_server(
    runtime_root: Path, issued: list[Names], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartServer]:
    """Like `make_server`, for servers that all tests of a module share."""
    directory = tmp_path_factory.mktemp("servers")
    yield from serve_and_clean(lambda: _random_names(runtime_root, issued), directory)


@pytest.fixture
def server(make_server: StartServer) -> Server:
    """A small server of this test's own: two workers, 16 MiB."""
    return make_server()


@pytest.fixture
def own(server: Server) -> Iterator[tuple[Server, kvserve.Client]]:
    """A server and a client of it for one test, which may count keys and flush."""
    with server.connect() as cache:
        yield server, cache


@pytest.fixture(scope="module")
def shared(make_module_server: StartServer) -> Server:
    """One server for the tests of a module, each of which uses keys of its own."""
    return make_module_server()


def serve_and_clean(new_names: NewNames, directory: Path) -> Iterator[StartServer]:
    """Yields a function that starts servers. Afterwards nothing of theirs is left."""
    started: list[Server] = []

    def start(*flags: str, names: Names | None = None, wait: bool = True) -> Server:
        log_file = directory / f"server-{len(started)}.log"
        server = Server(names or new_names(), flags, log_file)
        started.append(server)
        if wait:
            server.wait_ready()
        return server

    yield start
    problems = []
    for server in started:
        try:
            server.stop()
        except AssertionError as error:  # the others must still be stopped
            problems.append(str(error))
    for each in {server.names.name: server.names for server in started}.values():
        problems += [f"outlived its server: {stray}" for stray in end_processes(each)]
        clean_up(each)
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Polls until a condition holds. To take long is not a failure; never to hold is."""

    def wait(condition: Callable[[], object]) -> None:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < give_up, f"{condition} never held"
            time.sleep(0.005)

    return wait
