"""What a client stored and the command line prints: it steers no terminal and forges no line."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from support.commands import COMMAND, answers, environment, kvserve, on_terminal
from support.servers import Server

# Sets the window's title, clears the screen, and the same by C1 controls; a bell, a carriage
# return; a mark that turns the direction of text; a separator of lines; a newline.
STEERING = "\x1b]0;title\x07\x1b[2J\x9b2J\x7f\r\u202e\u2028\n"
SHOWN = "\\x1b]0;title\\a\\x1b[2J\\x9b2J\\x7f\\r\\u202e\\u2028\\n"
FORBIDDEN = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u202e", "\u2028"} - {
    "\n",
    "\t",
}


def harmless(screen: str) -> bool:
    """Whether nothing on it steers a terminal; fails with what does."""
    assert FORBIDDEN.isdisjoint(screen), repr(screen)
    return True


@pytest.fixture
def steering(shared: Server) -> str:
    """A key that steers; its value does, too."""
    key = f"key {STEERING}set 1 forged"
    with shared.connect() as cache:
        cache.set(key, f"value {STEERING}")
        cache.set("plain", f"value {STEERING}")
        cache.set(b"raw-\xff\x9b", b"raw-\xff\x9b\x1b")
    return key


@pytest.mark.parametrize("words", [("keys",), ("get", "KEY"), ("get", "KEY", "plain", "nobody")])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_on_a_terminal_nothing_steers(
    shared: Server, steering: str, words: tuple[str, ...], form: tuple[str, ...]
) -> None:
    filled = [steering if word == "KEY" else word for word in words]
    _, screen = on_terminal(*filled, *form, "--name", shared.name)
    assert harmless(screen)
    assert "title" in screen
    if not form and words[0] == "keys":
        assert f"key {SHOWN}set 1 forged\n" in screen
        assert "raw-\\xff\\x9b\n" in screen
    if not form and len(words) == 2:  # of a single value the newlines and tabs stay
        assert screen == f"value {SHOWN[:-2]}\n\n"
    if not form and len(words) == 4:
        assert screen.count("\n") == 3


@pytest.mark.parametrize(
    "words",
    [("set", "k", "v", "--type", "KEY"), ("KEY",), ("get", "--KEY"), ("get", "k", "--name", "KEY")],
)
def test_an_error_that_repeats_what_was_typed_does_not_steer(words: tuple[str, ...]) -> None:
    status, screen = on_terminal(*(word.replace("KEY", f"x{STEERING}") for word in words))
    assert status == 2
    assert harmless(screen)
    assert "title" in screen


def test_watch_shows_a_key_in_one_line_that_steers_nothing(
    own: tuple[Server, Any],
) -> None:
    server, cache = own
    cache.set(f"key {STEERING}x", 1)
    cache.set(b"raw-\xff", 1)
    words = [*COMMAND, "watch", "--since", "oldest", "--name", server.name]
    for form in ([], ["--json"]):
        process = subprocess.Popen([*words, *form], stdout=subprocess.PIPE, env=environment())
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        process.kill()
        process.wait()
        process.stdout.close()
        lines.sort(key=lambda line: b"raw-" in line)  # of one millisecond, in any order
        assert harmless(lines[0].decode())
        if form:
            assert json.loads(lines[0])["key"] == f"key {STEERING}x"
        else:
            assert lines[0].decode().endswith(f" key {SHOWN}x\n")
            assert lines[1].endswith(b" raw-\xff\n")


def test_keys_through_a_pipe_are_lines_or_as_they_are(own: tuple[Server, Any]) -> None:
    server, cache = own
    name = ("--name", server.name)
    cache.set("a\nb", 1)
    assert answers(kvserve("keys", *name), 0, b"a\\nb\n")
    assert answers(kvserve("keys", "--null", *name), 0, b"a\nb\0")
    assert answers(kvserve("keys", "-0", "--limit", "9" * 20, *name), 0, b"a\nb\0")
    assert answers(kvserve("keys", "--json", *name), 0, b'["a\\nb"]\n')
    assert kvserve("keys", "--json", "--null", *name).returncode == 2
    cache.flush()
    cache.set(b"b\0c\x9b\xff", 1)
    assert answers(kvserve("keys", "-0", *name), 0, b"b\\x00c\x9b\xff\0")


def test_values_of_several_keys_take_a_line_each(own: tuple[Server, Any]) -> None:
    server, cache = own
    cache.set_many({"a": "1\nb\t2", "b\t": "é\tü"})
    lines = "a\t1\\nb\t2\nb\\t\té\tü\n".encode()
    assert answers(kvserve("get", "a", "b\t", "--name", server.name), 0, lines)
    one = kvserve("get", "a", "--name", server.name)
    assert answers(one, 0, b"1\nb\t2")  # as it was stored


def test_json_escapes_what_steers(own: tuple[Server, Any]) -> None:
    server, cache = own
    cache.set("k", STEERING)
    done = kvserve("get", "k", "--json", "--name", server.name)
    assert harmless(done.stdout.decode())
    assert json.loads(done.stdout)["value"] == STEERING
    cache.set("k", [STEERING])
    done = kvserve("get", "k", "--name", server.name)
    assert harmless(done.stdout.decode())
    assert json.loads(done.stdout) == [STEERING]


def test_a_slow_requests_key_steers_no_log(make_server: Any, eventually: Any) -> None:
    server = make_server("--slow-request", "0.0000001")
    with server.connect() as cache:
        cache.set(f"key {STEERING}", 1)
        cache.set(b"raw \x9b", 1)
    eventually(lambda: server.log.count("slow request: set") >= 2)
    assert harmless(server.log)


@pytest.mark.parametrize("verb", ["set", "add", "replace"])
def test_a_value_that_is_not_utf8_is_stored_as_bytes(own: tuple[Server, Any], verb: str) -> None:
    server, cache = own
    if verb == "replace":
        cache.set("k", 1)
    name = ("--name", server.name)
    assert answers(kvserve(verb, "k", b"raw-\xff", *name), 0, b"")
    assert cache["k"] == b"raw-\xff"
    assert answers(kvserve("get", "k", *name), 0, b"raw-\xff")
    assert answers(kvserve("set", "k", b"raw-\xff", "--type", "bytes", *name), 0, b"")
    for kind in ("text", "int", "json"):
        done = kvserve("set", "k", b"raw-\xff", "--type", kind, *name)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"is not UTF-8" in done.stderr
    assert cache["k"] == b"raw-\xff"


def test_under_an_ascii_locale_text_is_text(own: tuple[Server, Any]) -> None:
    server, cache = own
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    name = ("--name", server.name)
    assert answers(kvserve("set", "ключ", "é", *name, **ascii_locale), 0, b"")
    assert cache["ключ"] == "é"
    assert answers(kvserve("get", "ключ", *name, **ascii_locale), 0, "é".encode())
    assert answers(kvserve("keys", "кл", *name, **ascii_locale), 0, "ключ\n".encode())
    assert answers(kvserve("set", "k", '"é"', "--type", "json", *name, **ascii_locale), 0, b"")
    assert cache["k"] == "é"
