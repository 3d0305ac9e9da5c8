"""config/kvserve.toml names every setting, commented out, with its default and the reason."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from kvserve import config
from kvserve.config import Config

FILE = Path(__file__).parents[2] / "config" / "kvserve.toml"
SETTING = re.compile(r"#([a-z_]+) = (.+)")


def test_the_file_as_it_is_changes_nothing() -> None:
    assert config.load(FILE, environment={}) == Config()


def test_every_setting_is_there_with_its_default_and_its_sentence(tmp_path: Path) -> None:
    text = FILE.read_text()
    settings = dict(SETTING.findall(text))
    assert list(settings) == [setting.name for setting in dataclasses.fields(Config)]
    uncommented = tmp_path / "kvserve.toml"
    uncommented.write_text(SETTING.sub(r"\1 = \2", text))
    assert config.load(uncommented, environment={}) == Config()
    for sentence in config.describe().values():
        assert " ".join(sentence.split()) in " ".join(text.replace("\n# ", " ").split())
