"""What the parent does now and then, and what it decides by time: FIFOs, names, timers, reloads."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.oddities import ODDITIES, uproot

from kvserve.config import Config
from kvserve.errors import ConfigError
from kvserve.limits import MIB
from kvserve.names import Names
from kvserve.parent.housekeeping import (
    FIFO_AGE_SECONDS,
    NameWatch,
    memory_path,
    remove_all_fifos,
    remove_dead_fifos,
    sweep_dead_fifos,
)
from kvserve.parent.reloading import ConfigFile
from kvserve.parent.timers import Timers
from kvserve.runtime import prepare_directory


class TestFifos:
    """A client's FIFOs are left over when nobody reads its reply FIFO, and they are not new."""

    @pytest.fixture
    def names(self, names: Names) -> Iterator[Names]:
        prepare_directory(names, None)
        yield names
        remove_all_fifos(names)

    def make(self, names: Names, client_id: int) -> tuple[Path, Path]:
        pair = names.request_fifo(client_id), names.reply_fifo(client_id)
        for path in pair:
            os.mkfifo(path, 0o600)
        return pair

    def later(self) -> float:
        return time.time() + FIFO_AGE_SECONDS + 1

    def test_a_dead_clients_are_removed(self, names: Names) -> None:
        pair = self.make(names, 1)
        assert remove_dead_fifos(names, self.later()) == 2
        assert not any(path.exists() for path in pair)

    def test_a_new_clients_stay(self, names: Names) -> None:
        pair = self.make(names, 1)
        assert remove_dead_fifos(names) == 0
        assert all(path.exists() for path in pair)

    def test_a_living_clients_stay(self, names: Names) -> None:
        pair = self.make(names, 1)
        reader = os.open(pair[1], os.O_RDONLY | os.O_NONBLOCK)
        assert remove_dead_fifos(names, self.later()) == 0
        os.close(reader)
        assert remove_dead_fifos(names, self.later()) == 2

    def test_half_a_pair_is_left_over_too(self, names: Names) -> None:
        request, reply = self.make(names, 1)
        reply.unlink()
        assert remove_dead_fifos(names, self.later()) == 1
        assert not request.exists()

    def test_other_files_stay(self, names: Names) -> None:
        strangers = [names.clients_directory / name for name in ("note", "1.reply", "x.request")]
        for path in strangers:
            path.touch()
        assert remove_dead_fifos(names, self.later()) == 0
        assert remove_all_fifos(names) == []
        for path in strangers:
            path.unlink()

    def test_a_symbolic_link_is_removed_and_not_followed(
        self, names: Names, tmp_path: Path
    ) -> None:
        target = tmp_path / "target"
        target.write_text("precious")
        names.reply_fifo(1).symlink_to(target)
        assert remove_dead_fifos(names, self.later()) == 1
        assert target.read_text() == "precious"

    @pytest.mark.parametrize("oddity", ODDITIES)
    @pytest.mark.parametrize("end", ["request", "reply"])
    def test_whatever_has_a_fifos_name_hinders_nobody(
        self, names: Names, oddity: str, end: str
    ) -> None:
        odd = names.clients_directory / f"{1:016x}.{end}"
        ODDITIES[oddity](odd)
        self.make(names, 2)
        stays = int(oddity == "full directory")
        assert remove_dead_fifos(names, self.later()) == 3 - stays
        assert list(names.clients_directory.iterdir()) == [odd] * stays
        self.make(names, 3)
        assert len(remove_all_fifos(names)) == 2
        uproot(odd)

    @pytest.mark.parametrize("name", [b"\xff" * 16 + b".reply", b"x" * 255, b"a\nb.request"])
    def test_odd_names_stay(self, names: Names, name: bytes) -> None:
        path = os.path.join(os.fsencode(names.clients_directory), name)  # noqa: PTH118 - bytes
        os.mkfifo(path)
        assert remove_dead_fifos(names, self.later()) == 0
        assert remove_all_fifos(names) == []
        os.unlink(path)  # noqa: PTH108

    @pytest.mark.parametrize("plant", [*ODDITIES.values(), Path.touch])
    def test_a_clients_directory_that_is_none(
        self, names: Names, plant: Callable[[Path], object], tmp_path: Path
    ) -> None:
        names.clients_directory.rmdir()
        plant(names.clients_directory)
        assert remove_dead_fifos(names, self.later()) == 0
        assert remove_all_fifos(names) == []
        uproot(names.clients_directory)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / names.reply_fifo(1).name).touch()
        names.clients_directory.symlink_to(elsewhere)
        assert remove_all_fifos(names) == []  # a link is not followed
        names.clients_directory.unlink()

    def test_many_take_many_pieces(self, names: Names) -> None:
        for client_id in range(300):
            self.make(names, client_id)
        pieces = list(sweep_dead_fifos(names, self.later()))
        assert len(pieces) > 2
        assert sum(pieces) == 600

    def test_a_clock_that_is_set_back_keeps_none(self, names: Names) -> None:
        for path in self.make(names, 1):
            os.utime(path, (self.later() + 86_400,) * 2)
        assert remove_dead_fifos(names) == 2


def test_the_watch_sees_a_name_vanish_and_one_change_hands(names: Names) -> None:
    path = memory_path(names.table)
    path.write_bytes(b"ours")
    watch = NameWatch([names.table], [])
    assert watch.vanished() == []
    path.unlink()
    assert watch.vanished() == [path]
    keep = path.with_suffix(".keep")
    keep.write_bytes(b"takes the inode that is free now")
    path.write_bytes(b"another's")
    assert watch.vanished() == [path]
    path.unlink()
    keep.unlink()


class TestTimers:
    """Actions by name, run when they are due."""

    @pytest.fixture
    def now(self) -> list[float]:
        return [100.0]

    @pytest.fixture
    def timers(self, now: list[float]) -> Timers:
        return Timers(clock=lambda: now[0])

    def test_what_is_not_due_waits(self, timers: Timers, now: list[float]) -> None:
        done: list[str] = []
        timers.set("late", 5, lambda: done.append("late"))
        timers.set("early", 2, lambda: done.append("early"))
        assert timers.seconds_left() == 2
        now[0] += 2
        timers.run_due()
        assert done == ["early"]
        assert timers.seconds_left() == 3
        now[0] += 10
        assert timers.seconds_left() == 0
        timers.run_due()
        assert done == ["early", "late"]
        assert timers.seconds_left() is None

    def test_an_action_may_set_itself_again(self, timers: Timers, now: list[float]) -> None:
        runs: list[float] = []

        def again() -> None:
            runs.append(now[0])
            timers.set("again", 0, again)

        again()
        timers.run_due()
        timers.run_due()
        assert len(runs) == 3

    def test_an_action_may_clear_those_after_it(self, timers: Timers) -> None:
        done: list[int] = []
        timers.set("first", 0, timers.clear)
        timers.set("second", 0, lambda: done.append(2))
        timers.run_due()
        assert done == []

    def test_setting_again_replaces(self, timers: Timers, now: list[float]) -> None:
        done: list[int] = []
        timers.set("it", 1, lambda: done.append(1))
        timers.set("it", 5, lambda: done.append(2))
        now[0] += 5
        timers.run_due()
        assert done == [2]


class TestReload:
    """What a changed file can change while the server runs."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "kvserve.toml"
        path.write_text('log_level = "info"\nworkers = 2\n')
        return path

    def test_nothing_changed(self, path: Path) -> None:
        running = Config(workers=2)
        assert ConfigFile(path, running).reload(running, MIB) == (running, [])

    def test_live_settings_change_at_once(self, path: Path) -> None:
        file = ConfigFile(path, Config(workers=2))
        path.write_text('log_level = "debug"\nworkers = 2\ndefault_ttl = 60\n')
        wanted = Config(workers=2, log_level="debug", default_ttl=60.0)
        assert file.reload(Config(workers=2), MIB) == (wanted, [])
        assert file.reload(wanted, MIB) == (wanted, [])

    def test_what_was_set_by_command_is_as_in_the_file_again(self, path: Path) -> None:
        started = Config(workers=2)
        file = ConfigFile(path, started)
        by_command = dataclasses.replace(started, log_level="error", spin=0)
        assert file.reload(by_command, MIB) == (started, [])

    def test_the_rest_needs_a_restart_and_says_so_each_time(self, path: Path) -> None:
        started = Config(workers=2)
        file = ConfigFile(path, started)
        path.write_text("workers = 3\nmemory = '64MiB'\n")
        for _ in range(2):
            running, remarks = file.reload(started, MIB)
            assert running == started
            assert [text for _, text in remarks] == [
                "memory changed in the file; it needs a restart",
                "workers changed in the file; it needs a restart",
            ]

    def test_a_flag_still_wins(self, path: Path) -> None:
        started = Config(workers=2, log_level="error")
        file = ConfigFile(path, started)
        path.write_text('log_level = "debug"\nworkers = 2\n')
        by_command = dataclasses.replace(started, log_level="warning")
        running, remarks = file.reload(by_command, MIB)
        assert running == started
        assert remarks == [("warning", "log_level stays, because it was given by a flag")]

    def test_a_value_larger_than_the_table_allows_needs_a_restart(self, path: Path) -> None:
        started = Config(workers=2, max_value=64 * 1024)  # so small a table: the file says nothing
        file = ConfigFile(path, Config(workers=2))
        assert file.reload(started, 64 * 1024) == (started, [])
        path.write_text('workers = 2\nmax_value = "2MiB"\n')
        remark = ("warning", "max_value above 64 KiB needs a restart")
        assert file.reload(started, 64 * 1024) == (started, [remark])
        path.write_text('workers = 2\nmax_value = "1KiB"\n')
        wanted = dataclasses.replace(started, max_value=1024)
        assert file.reload(started, 64 * 1024) == (wanted, [])

    def test_a_bad_file_changes_nothing(self, path: Path) -> None:
        file = ConfigFile(path, Config(workers=2))
        path.write_text("workers = 'many'\n")
        with pytest.raises(ConfigError, match="workers"):
            file.reload(Config(workers=2), MIB)
