"""The settings page through a server's life: reloads, restarts, kills, and what others may do."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Eventually
from support.commands import Run, answers, kvserve
from support.configuring import change, config, refused, versions
from support.servers import Server, StartServer, clean_up

from kvserve.live import settings
from kvserve.names import Names
from kvserve.parent.housekeeping import memory_path

# Imports what it needs while it still may: the interpreter may be in root's home directory.
AS_ANOTHER = """
import os, sys
import kvserve.cli.configuring
from kvserve.cli import commands, main
groups = [int(group) for group in sys.argv.pop(1).split()]
os.setgroups(groups)
os.setgid(65534)
os.setuid(65534)
main.main()
"""


def test_hup_puts_the_file_in_force_again(
    make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    file = tmp_path / "kvserve.toml"
    file.write_text("default_ttl = 30\n")
    server = make_server("--config", str(file), "--spin", "7")
    change(server, "default_ttl", "60")  # wins over the file
    change(server, "spin", "0")  # and over the flag
    file.write_text('default_ttl = 90\nmax_value = "1KiB"\nworkers = 1\nspin = 9\n')
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "reload: spin stays, because it was given by a flag" in server.log)
    assert "max_value stays, because it was given by a flag" in server.log
    assert "workers stays, because it was given by a flag" in server.log
    assert "settings version 4: default_ttl: 60.0 -> 90.0; spin: 0 -> 7" in server.log
    eventually(lambda: versions(server) == [4, 4])
    assert answers(config(server, "get", "default_ttl"), 0, b"90.0\n")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: server.log.count("reload: spin stays") == 2)
    assert versions(server) == [4, 4]

    file.write_text("default_ttl = -1\n")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "reload: nothing changed: default_ttl = -1.0: use a value" in server.log)
    assert versions(server) == [4, 4]


def test_a_reload_does_not_wait_for_a_writer_that_stands_still(
    make_server: StartServer, tmp_path: Path, eventually: Eventually
) -> None:
    file = tmp_path / "kvserve.toml"
    file.write_text("spin = 1\n")
    server = make_server("--config", str(file))
    file.write_text("spin = 2\n")
    with settings.writing(server.names):
        server.process.send_signal(signal.SIGHUP)
        eventually(
            lambda: "nothing changed: another process is changing the settings" in server.log
        )
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: versions(server) == [2, 2])


def test_a_restart_begins_with_the_configuration(make_server: StartServer) -> None:
    server = make_server()
    change(server, "spin", "0")
    path = memory_path(server.names.settings)
    assert server.stop() == 0
    assert not path.exists()
    assert not server.names.settings_lock.exists()
    again = make_server("--spin", "3", names=server.names)
    assert versions(again) == [1, 1]
    assert answers(config(again, "get", "spin"), 0, b"3\n")


def test_a_killed_servers_page_is_taken_for_no_server_and_replaced(
    make_server: StartServer, eventually: Eventually
) -> None:
    server = make_server()
    change(server, "spin", "0")
    server.kill_everything()
    assert memory_path(server.names.settings).exists()
    eventually(lambda: kvserve("config", "get", "spin", "--name", server.name).returncode == 3)
    again = make_server(names=server.names)
    assert versions(again) == [1, 1]
    assert answers(config(again, "get", "spin"), 0, b"50\n")
    again.kill_everything()
    clean_up(server.names)
    assert not memory_path(server.names.settings).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may remove what is another's")
@pytest.mark.parametrize("kind", ["memory", "link"])
def test_what_stands_in_the_pages_place_is_neither_used_nor_followed(
    names: Names, make_server: StartServer, tmp_path: Path, kind: str
) -> None:
    path = memory_path(names.settings)
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    if kind == "memory":
        path.write_bytes(bytes(settings.PAGE_BYTES))
    else:
        path.symlink_to(victim)
    os.chown(path, 65534, 65534, follow_symlinks=False)
    server = make_server(names=names)
    status = path.lstat()
    assert (status.st_uid, stat.S_IFMT(status.st_mode)) == (0, stat.S_IFREG)
    assert versions(server) == [1, 1]
    assert victim.read_text() == "untouched"


def test_a_page_that_vanishes_ends_the_server_and_keeps_the_table(
    make_server: StartServer, eventually: Eventually
) -> None:
    server = make_server()
    with server.connect() as cache:
        cache.set("a", 1)
    memory_path(server.names.settings).unlink()
    eventually(lambda: not server.alive)
    assert f"{memory_path(server.names.settings)} was removed by another process" in server.log
    with make_server(names=server.names).connect() as cache:
        assert cache.get("a") == 1


def test_garbage_in_the_page_changes_nothing(server: Server, eventually: Eventually) -> None:
    change(server, "default_ttl", "60")
    with memory_path(server.names.settings).open("r+b") as file:
        file.seek(8)
        file.write(b"\x07" * 1000)
    eventually(lambda: server.log.count("the settings page is damaged") == 3)
    assert versions(server) == [2, 2]
    with server.connect() as cache:
        cache.set("a", 1)
        assert 0 < (cache.ttl("a") or 0) <= 60
    for words in (["get", "spin"], ["set", "spin", "0"]):
        assert "is damaged; restart the server" in refused(config(server, *words), 3)
    assert server.log.count("the settings page is damaged") == 3  # each said it once


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_cannot_change_and_a_member_can_look(
    names: Names, make_server: StartServer
) -> None:
    root = Path(f"/tmp/{names.name}")  # pytest's own directory keeps others out
    names = Names(names.name, root / names.name)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KVSERVE_RUNTIME_DIR", str(root))
            server = make_server("--group", "daemon", names=names)
            ask: Callable[..., Run] = as_another(names)
            member, stranger = "1", ""
            assert answers(ask(member, "get", "spin"), 0, b"50\n")
            told = refused(ask(member, "set", "spin", "0"), 3)
            assert "only root, whose server this is, can change its settings: sudo -u root" in told
            for words in (["get", "spin"], ["set", "spin", "0"], ["show", "--live"]):
                assert "not permitted to use instance" in refused(ask(stranger, *words), 3)
            assert versions(server) == [1, 1]
            server.stop()
            clean_up(names)
    finally:
        root.rmdir()


def as_another(names: Names) -> Callable[..., Run]:
    """`kvserve config` as user nobody, in the groups that are told."""

    def ask(groups: str, *words: str) -> Run:
        command = [sys.executable, "-c", AS_ANOTHER, groups, "config", *words]
        return subprocess.run([*command, "--name", names.name], capture_output=True, check=False)

    return ask
