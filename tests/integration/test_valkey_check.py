"""Which URLs a server may start with: logins, databases, TLS, and what is no store at all."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from support.valkeys import Heard, Valkey, free_ports, relay, serve, serve_cluster

from kvserve.errors import ConfigError, StoreUnavailable
from kvserve.protocol import codec
from kvserve.store.base import Record
from kvserve.store.urls import check
from kvserve.store.valkey.store import ValkeyStore

PASSWORD = "a/b@c:d e"
QUOTED = "a%2Fb%40c%3Ad%20e"
RECORD = Record("key", *codec.encode(1), 0)


@pytest.fixture(scope="module")
def shared_valkey() -> Iterator[Valkey]:
    """A server, also on a port, that every test leaves as it was."""
    with serve(port=free_ports(1)[0]) as server:
        yield server


@pytest.fixture
def valkey(shared_valkey: Valkey) -> Valkey:
    """The same, and empty."""
    shared_valkey.call("FLUSHALL")
    return shared_valkey


async def use(url: str) -> None:
    """Stores something under `key` and follows changes, as a worker does."""
    store = ValkeyStore(url, timeout_seconds=20.0, staleness_seconds=1.0)
    await store.open()
    try:
        await store.save_many([RECORD])
        heard = Heard(store)
        await heard.until(lambda: heard.is_fresh)
    finally:
        await store.close()


def test_logins() -> None:
    with serve() as own:
        own.call("ACL", "SETUSER", "ada", "on", ">pw", "~*", "&*", "+@all")
        own.call("CONFIG", "SET", "requirepass", PASSWORD)

        for login in (f":{QUOTED}", f"default:{QUOTED}", "ada:pw"):
            check(f"unix://{login}@{own.socket}")
            uvloop.run(use(f"unix://{login}@{own.socket}"))
        for login in ("", ":wrong@", "ada:wrong@", f"nobody:{QUOTED}@"):
            with pytest.raises(ConfigError, match=r"refuses .* password") as caught:
                check(f"unix://{login}{own.socket}")
            assert PASSWORD not in str(caught.value)


def test_another_database_is_another_store(valkey: Valkey) -> None:
    check(f"{valkey.url}?db=3")
    uvloop.run(use(f"{valkey.url}?db=3"))
    assert valkey.call("EXISTS", "key") == 0
    with pytest.raises(ConfigError, match="DB index"):
        check(f"valkey://127.0.0.1:{valkey.port}/99")


def test_what_is_no_store(valkey: Valkey, tmp_path: Path) -> None:
    check(f"valkey://127.0.0.1:{valkey.port}")
    check(f"redis://127.0.0.1:{valkey.port}/0?prefix=app:")
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        check(f"unix://{tmp_path}/nobody")
    with pytest.raises(ConfigError, match="no cluster"):
        check(f"valkey://127.0.0.1:{valkey.port},127.0.0.1:{valkey.port}")
    valkey.call("REPLICAOF", "127.0.0.1", 1)
    try:
        with pytest.raises(ConfigError, match="is a replica"):
            check(valkey.url)
    finally:
        valkey.call("REPLICAOF", "NO", "ONE")
    with serve_cluster() as cluster, pytest.raises(ConfigError, match="not ready"):
        check(cluster.url)


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR what?\r\n", b""])
def test_a_server_of_another_kind(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [sys.executable, "-c", _OTHER_SERVER, greeting.hex()], stdin=listener.fileno()
        )
        try:
            with pytest.raises((ConfigError, StoreUnavailable)) as caught:
                check(f"valkey://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            process.kill()
            process.wait()
    assert ("no Valkey" in str(caught.value)) == bool(greeting)


_OTHER_SERVER = """
import socket, sys
with socket.socket(fileno=0) as listener:
    while True:
        with listener.accept()[0] as client:
            client.recv(1000)
            client.sendall(bytes.fromhex(sys.argv[1]))
"""


def test_a_missing_package() -> None:
    for package in ("redis", "hiredis"):
        code = (
            f"import sys; sys.modules[{package!r}] = None; from kvserve.store.urls import check;"
            "check('valkey://127.0.0.1')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "ConfigError" in done.stderr
        assert "pip install 'kvserve[valkey]'" in done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is nothing to make a key with")
def test_tls(valkey: Valkey, tmp_path: Path) -> None:
    """The package's server has no TLS, so a relay in front of it ends it."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", certificate, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def main() -> None:
        async with relay(valkey, context) as (port, _):
            url = f"valkeys://localhost:{port}"
            await use(f"{url}?ca={certificate}")
            await asyncio.to_thread(check, f"{url}?ca={certificate}")
            valkey.call("FLUSHALL")
            with pytest.raises(StoreUnavailable, match="certificate verify failed"):
                await asyncio.to_thread(check, url)
            with pytest.raises(StoreUnavailable, match="certificate verify failed"):
                await use(url)
        assert valkey.call("EXISTS", "key") == 0

    asyncio.run(main())
