"""The README's transcript and its Python example run, and give what they show."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import NewNames
from servers import Server, clean_up

from kvserve import runtime

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(language: str) -> str:
    """The first fenced block of a language."""
    match = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert match, f"the README has no {language} block"
    return match[1]


def transcript() -> list[tuple[str, str]]:
    """The commands of the console block, each with what it prints."""
    parts = re.split(r"^\$ ", block("console"), flags=re.MULTILINE)[1:]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def on_a_terminal(command: str, environment: dict[str, str]) -> str:
    """What a shell command prints on a terminal."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        ["bash", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        printed = b""
        with contextlib.suppress(OSError):  # EIO: everybody at the other side is gone
            while piece := os.read(ours, 65536):
                printed += piece
        process.wait()
    os.close(ours)
    return printed.decode().replace("\r\n", "\n")


def test_transcript(new_names: NewNames) -> None:
    names = new_names()
    environment = os.environ | {
        "KVSERVE_NAME": names.name,
        "KVSERVE_RUNTIME_DIR": str(names.runtime_directory.parent),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": "dumb",
    }
    try:
        for command, expected in transcript():
            printed = on_a_terminal(command, environment)
            shown = printed.replace(f" --name {names.name}", "").replace(names.name, "default")
            assert (command, shown) == (command, expected)
    finally:
        if pid := runtime.holder(names):
            subprocess.run(["kill", str(pid)], check=True)
            while runtime.holder(names) is not None:
                pass
        clean_up(names)


def test_python_example(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVSERVE_NAME", server.name)
        found: dict[str, Any] = {}
        exec(block("python"), found)
    with found["cache"] as cache:
        assert cache["user:1"] == {"name": "Ada", "age": 36}
        assert found["p"].results[1] == 2
    assert capsys.readouterr().out == "user:1\n"
