"""URLs of Valkey stores: what they mean, and that no refusal repeats a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserve.errors import ConfigError
from kvserve.store.valkey.address import Address, Node, parse


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("valkey://cache", Address((Node("cache", 6379),))),
        ("redis://127.0.0.1:6380/2", Address((Node("127.0.0.1", 6380),), database=2)),
        ("valkeys://h/", Address((Node("h", 6379),), is_tls=True)),
        ("rediss://h?db=3", Address((Node("h", 6379),), database=3, is_tls=True)),
        ("valkey://[::1]:7000", Address((Node("::1", 7000),))),
        ("valkey://a:1,b,c:3", Address((Node("a", 1), Node("b", 6379), Node("c", 3)))),
        ("valkey://:p%40%2Fw@h", Address((Node("h", 6379),), password="p@/w")),
        ("valkey://u:p:q@h", Address((Node("h", 6379),), user="u", password="p:q")),
        ("unix:///run/v.sock?db=1", Address((Node("/run/v.sock", 0),), database=1)),
        ("unix://u:p@/a%20b", Address((Node("/a b", 0),), user="u", password="p")),
        ("valkey://h?prefix=é:", Address((Node("h", 6379),), prefix="é:".encode())),
    ],
)
def test_what_urls_mean(url: str, expected: Address) -> None:
    assert parse(url) == expected


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("valkey://", "no HOST"),
        ("valkey://h:port", "no HOST"),
        ("valkey://h:0", "port"),
        ("valkey://h:65536", "port"),
        ("valkey://a,,b", "no HOST"),
        ("valkey://[::1", "cannot be read"),
        ("valkey://h/one", "no number"),
        ("valkey://h/1?db=2", "two databases"),
        ("valkey://h?timeout=1", "options other than"),
        ("valkey://user@h", "without a password"),
        ("valkey://h?ca=/etc/passwd", "needs TLS"),
        ("valkeys://h?ca=/nowhere", "no file"),
        ("unix://relative/path", "three slashes"),
        ("unix://", "three slashes"),
        ("http://h", "URLs of"),
    ],
)
def test_what_is_refused(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse(url)


@pytest.mark.parametrize(
    "password", ["secret/x", "secret@x:1", "secret?a=b", "secret#x", "[secret", "1/secret"]
)
def test_no_refusal_repeats_a_password(password: str) -> None:
    """One that should have been quoted may look like anything."""
    for url in (f"valkey://:{password}@h:x", f"valkey://user:{password}@h:x"):
        with pytest.raises(ConfigError) as caught:
            parse(url)
        assert "secret" not in str(caught.value)


def test_an_address_does_not_show_its_password() -> None:
    assert "secret" not in repr(parse("valkey://:secret@h"))


def test_certificates(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    assert parse(f"valkeys://h?ca={tmp_path}/ca.pem").ca_file == f"{tmp_path}/ca.pem"
