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
from support.servers import Server, clean_up

from kvserve import runtime

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    found = re.findall(rf"^```{language}\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    assert found, f"the README has no {language} block"
    return found


def transcript(block: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with what it prints."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
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


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.split("\n")[0][2:])
def test_transcript(block: str, new_names: NewNames, tmp_path: Path) -> None:
    names = new_names()
    environment = os.environ | {
        "KVSERVE_NAME": names.name,
        "KVSERVE_RUNTIME_DIR": str(names.runtime_directory.parent),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": "dumb",
    }
    try:
        for command, expected in transcript(block):
            ours = command.replace("--name shop", f"--name {names.name}")
            printed = on_a_terminal(f"cd {tmp_path} && {ours}", environment)
            shown = printed.replace(f" --name {names.name}", "").replace(names.name, "default")
            assert (command, shown) == (command, expected)
    finally:
        if pid := runtime.holder(names):
            subprocess.run(["kill", str(pid)], check=True)
            while runtime.holder(names) is not None:
                pass
        clean_up(names)


def test_python_examples(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = {"__name__": "readme"}  # functions that are memoized need a module
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVSERVE_NAME", server.name)
        for block in blocks("python"):
            exec(block, found)
    with found["cache"] as cache:
        assert cache["user:1"] == {"name": "Ada", "age": 36}
        assert found["p"].results[1] == 2
        assert found["europe"].get("tax") is None
    assert capsys.readouterr().out == "user:1\n"
