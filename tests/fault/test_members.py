"""Members of the server's group, honest and hostile: what they may do ends nobody else."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Eventually, NewNames
from support.servers import Server, StartServer, clean_up

from kvserve.manifest import Manifest
from kvserve.names import Names
from kvserve.parent.housekeeping import memory_path
from kvserve.table._core import LAYOUT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become other users")

GROUP, GROUP_ID = "daemon", 1
HONEST, HOSTILE = 65_533, 65_534  # users
NOTES_BYTES = LAYOUT["notes_bytes"]
HEADER_BYTES = LAYOUT["hints_header_bytes"]

# A process of a user in the group; it answers each line with what that gives.
MEMBER = """
import os, sys, time, kvserve, kvserve.client.blocking.client, kvserve.client.notes, kvserve.objects
user, group, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.setgroups([group])
os.setgid(65534)
os.setuid(user)
cache = kvserve.connect(name, timeout=20)
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""

# What a hostile member tries on everything that has the instance's name. Prints what it could do.
ATTACK = """
import os, stat, sys
from pathlib import Path
user, group, name, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
os.setgroups([group])
os.setgid(65534)
os.setuid(user)
paths = [*Path("/dev/shm").glob(f"*kvserve.{name}.*"), *Path(directory).rglob("*"), Path(directory)]
looked_at = set()
for path in paths:
    looked_at.add(path.name)
    if stat.S_ISFIFO(path.lstat().st_mode):
        continue
    attacks = {
        "shorten": lambda: os.truncate(path, 0),
        "lengthen": lambda: os.truncate(path, 2**40),
        "open for writing": lambda: os.close(os.open(path, os.O_WRONLY)),
        "change the mode of": lambda: os.chmod(path, 0o777),
        "remove": lambda: path.unlink(),
        "rename": lambda: path.rename(path.parent / "stolen"),
        "replace": lambda: os.rename(path.with_name(f"{user}.new"), path),
    }
    if path.is_dir():
        attacks = {key: attacks[key] for key in ("change the mode of", "rename")}
        attacks["remove"] = lambda: path.rmdir()
    for what, attack in attacks.items():
        try:
            attack()
            print(what, path, flush=True)
        except OSError:
            pass
assert {f"kvserve.{name}.table", f"kvserve.{name}.hints", "manifest.json", "pid"} <= looked_at
assert any(each.endswith(".notes") for each in looked_at)
"""


class Member:
    """A client of another user, in a process of its own."""

    def __init__(self, names: Names, user: int) -> None:
        environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-c", MEMBER, str(user), str(GROUP_ID), names.name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, expression: str) -> str:
        """What an expression of `cache` gives there, as text."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def member(names: Names, user: int = HONEST) -> Iterator[Member]:
    found = Member(names, user)
    try:
        yield found
    finally:
        found.end()


@pytest.fixture
def group_names(new_names: NewNames) -> Iterator[Names]:
    """Names whose runtime directory others reach; pytest's own directory keeps them out."""
    name = new_names().name
    root = Path(f"/tmp/{name}")
    root.mkdir(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVSERVE_RUNTIME_DIR", str(root))
        try:
            yield Names(name, root / name)
        finally:
            clean_up(Names(name, root / name))
            root.rmdir()


@pytest.fixture
def shared(group_names: Names, make_server: StartServer) -> Iterator[Server]:
    """A server whose clients may be members of a group."""
    server = make_server("--group", GROUP, names=group_names)
    yield server
    server.stop()


def notes_of(names: Names) -> list[Path]:
    return list(names.clients_directory.glob("*.notes"))


def hints_of(names: Names) -> bytes:
    return memory_path(names.hints).read_bytes()[HEADER_BYTES:]


def serves(server: Server, other: Member) -> None:
    """Whether all go on: workers, a reader of the server's user, one of another."""
    with server.connect() as cache:
        cache.set("key", "value")
        assert cache.get("key") == "value"
        assert cache.verify() == []
        assert other("cache.get('key')") == "'value'"
    assert server.alive
    assert "died" not in server.log, server.log


def test_what_a_member_reads_is_kept(
    group_names: Names, make_server: StartServer, eventually: Eventually
) -> None:
    """Through its notes, for it cannot write the hints. Without them, all of these are evicted."""
    small = ("--memory", "2MiB", "--max-value", "16KiB", "--group", GROUP)
    server = make_server(*small, names=group_names)
    hot = {f"hot {number}": number for number in range(200)}
    with server.connect() as cache, member(group_names) as other:
        cache.set_many(hot)
        hits = 0
        for turn in range(12):
            for _ in range(2):
                found = int(other("len(cache.get_many([f'hot {n}' for n in range(200)]))"))
                assert found > 150  # a few go by chance: theirs was the fullest bucket
                hits += found
            eventually(lambda hits=hits: cache.stats()["hits"] >= hits)  # a worker has seen it
            cache.set_many({f"cold {turn} {number}": "x" * 200 for number in range(1500)})
        assert cache.stats()["evictions"] > 3000
    server.stop()


def test_a_file_of_notes_goes_with_its_client(shared: Server, eventually: Eventually) -> None:
    with member(shared.names) as killed, member(shared.names) as closed:
        assert killed("cache.get('a')") == closed("cache.get('a')") == "None"
        assert len(notes_of(shared.names)) == 2
        (size,) = {path.stat().st_size for path in notes_of(shared.names)}
        assert size == NOTES_BYTES
        closed("cache.close()")
        eventually(lambda: len(notes_of(shared.names)) == 1)
        killed.end()
        eventually(lambda: notes_of(shared.names) == [])
        with shared.connect() as cache:
            assert cache.stats()["misses"] >= 2  # of both, who are gone


def test_a_client_of_the_servers_user_has_no_notes(shared: Server) -> None:
    with shared.connect() as cache:
        cache.set("key", 1)
        assert cache.get("key") == 1
        assert max(hints_of(shared.names)) > 0
        assert notes_of(shared.names) == []


def test_reads_count_under_the_next_server(
    shared: Server, make_server: StartServer, eventually: Eventually
) -> None:
    with member(shared.names) as other:
        assert other("cache.set('key', 'value') > 0") == "True"
        shared.stop()
        assert notes_of(shared.names) == []
        again = make_server("--group", GROUP, names=shared.names)
        assert other("cache.set('key', 'value') > 0") == "True"  # a session with the new server
        assert other("[cache.get('key') for _ in range(10)][-1]") == "'value'"
        with again.connect() as cache:
            eventually(lambda: cache.stats()["hits"] >= 10)
        # Who only reads finds it out when so much was noted that somebody should have read it.
        again.stop()
        third = make_server("--group", GROUP, names=shared.names)
        many = "[cache.get_many([f'k{n}' for n in range(100)]) for _ in range(100)] and 1"
        with third.connect() as cache:
            cache.set_many({f"k{number}": "x" for number in range(100)})
            assert other(many) == "1"
            eventually(lambda: notes_of(shared.names) != [])
            hits = cache.stats()["hits"]
            assert other(many) == "1"
            eventually(lambda: cache.stats()["hits"] >= hits + 5000)
        third.stop()


def test_a_hostile_member_shortens_nothing_that_others_map(shared: Server) -> None:
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    directory = str(shared.names.runtime_directory)
    with member(shared.names) as other, shared.connect() as cache:
        cache.set("key", "value")
        serves(shared, other)
        done = subprocess.run(
            [sys.executable, "-c", ATTACK, str(HOSTILE), str(GROUP_ID), shared.name, directory],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        for path in memory_path(shared.names.hints), memory_path(shared.names.table):
            with (
                path.open("rb") as file,
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory,
            ):
                assert len(memory) > 0
        assert cache.get("key") == "value"
        serves(shared, other)


def make_noise(path: Path) -> None:
    path.write_bytes(os.urandom(NOTES_BYTES))


def make_wrong_places(path: Path) -> None:
    """Of this table, by its looks: 2^64 - 1 notes of places far outside, and as many hits."""
    instance = bytes.fromhex(Manifest.read(path_names(path)).instance_id)
    ones = b"\xff" * NOTES_BYTES
    path.write_bytes(ones[:8] + instance + ones[24:])


def path_names(path: Path) -> Names:
    return Names(path.parent.parent.name, path.parent.parent)


def make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def make_directory(path: Path) -> None:
    (path / "full").mkdir(parents=True)


def make_symlink(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def make_unreadable(path: Path) -> None:
    path.write_bytes(bytes(NOTES_BYTES))
    path.chmod(0)


ODD = (
    make_noise, make_wrong_places, make_sparse, make_directory, make_symlink, os.mkfifo,
    make_unreadable, Path.touch,
)  # fmt: skip


def test_odd_notes_harm_nobody(
    shared: Server, make_server: StartServer, eventually: Eventually
) -> None:
    hostname = Path("/etc/hostname").read_bytes()
    paths = [shared.names.notes_file(number) for number in range(4 * len(ODD))]
    with member(shared.names) as other:
        for number, path in enumerate(paths):
            ODD[number // 4](path)  # each for both workers
            os.chown(path, HOSTILE, GROUP_ID, follow_symlinks=False)
        # The workers go round: they have seen what an honest client noted after that, twice.
        with shared.connect() as cache:
            for _ in range(2):
                misses = cache.stats()["misses"]
                other("[cache.get('nothing') for _ in range(8)]")
                eventually(lambda misses=misses: cache.stats()["misses"] >= misses + 8)
            assert cache.stats()["hits"] < 2**40
        # Nobody holds those that have the right length: they go. (Root may read what is 0000.)
        whole = [ODD.index(make) for make in (make_noise, make_wrong_places, make_unreadable)]
        eventually(
            lambda: not any(paths[4 * kind + n].exists() for kind in whole for n in range(4))
        )
        serves(shared, other)
    assert shared.stop() == 0
    assert Path("/etc/hostname").read_bytes() == hostname
    again = make_server("--group", GROUP, names=shared.names)
    with member(shared.names) as other:
        serves(again, other)
    assert again.stop() == 0
    for path in notes_of(shared.names):  # directories that are not empty
        (path / "full").rmdir()
        path.rmdir()
