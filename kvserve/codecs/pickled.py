"""Pickle as a codec. It executes what it reads: the only file of kvserve that does, on request."""

from __future__ import annotations

import hashlib
import hmac
import pickle as _pickle
from typing import Any

from kvserve.errors import InvalidArgument

NUMBER = 64
_DIGEST_BYTES = 32
_KEY_BYTES_MIN = 16


def pickle(key: bytes | None = None, protocol: int | None = None) -> Pickle | SignedPickle:
    """A codec that carries almost everything, for a client whose cache no stranger can write into.

    DANGER: to unpickle is to execute. Whoever can write into the cache (every user and program that
    is let in, and every store behind it: the SQLite file, the Valkey server) can run any code in
    every process that reads with this codec. Use it only where all of them may do that anyway. With
    a `key`, only those who know the key can.

    A signature proves that somebody who knows the key made a value, and not for which key of the
    cache, nor when: who can write into the cache can still put an old value back, or copy the value
    of one key to another. Keep the key out of the cache, and give it to trusted processes alone.

    Args:
        key: at least 16 secret bytes. Each value is signed with HMAC-SHA256; a value whose
            signature is missing or wrong is never unpickled, and raises UnreadableValue. Clients
            with and without a key, or with different ones, do not read each other's values.
        protocol: pickle's; None: Python's default. Clients of different Pythons need one that all
            of them have.

    Raises:
        InvalidArgument: the key is too short, or there is no such protocol.

    Example:
        >>> from fractions import Fraction
        >>> codec = kvserve.codecs.pickle(key=b"32 random bytes, from secrets...")
        >>> with kvserve.connect(codec=codec) as trusting:
        ...     _ = trusting.set("half", Fraction(1, 2))
        ...     trusting.get("half")
        Fraction(1, 2)
    """
    if protocol is None:
        protocol = _pickle.DEFAULT_PROTOCOL
    if type(protocol) is not int or not 0 <= protocol <= _pickle.HIGHEST_PROTOCOL:
        raise InvalidArgument(f"protocol = {protocol!r}: use 0 to {_pickle.HIGHEST_PROTOCOL}")
    if key is None:
        return Pickle(protocol)
    if not isinstance(key, bytes) or len(key) < _KEY_BYTES_MIN:
        raise InvalidArgument(
            f"key: use at least {_KEY_BYTES_MIN} secret bytes, such as secrets.token_bytes(32); "
            "None, without quotes, signs nothing"
        )
    return SignedPickle(key, protocol)


class Pickle:
    """Values pickled, and executed as they are read; made by `pickle`."""

    name = "pickle"
    number = NUMBER

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol

    def encode(self, value: Any, /) -> bytes:
        """The pickle of a value."""
        return _pickle.dumps(value, self._protocol)

    def decode(self, data: bytes, /) -> Any:
        """What a pickle makes."""
        return _pickle.loads(data)


class SignedPickle:
    """Values pickled and signed, executed as they are read if the signature is right."""

    name = "signed pickle"
    number = NUMBER

    def __init__(self, key: bytes, protocol: int) -> None:
        # Not as it is: other signatures by the same key must mean nothing here.
        self._key = hmac.digest(key, b"kvserve " + self.name.encode(), hashlib.sha256)
        self._protocol = protocol

    def encode(self, value: Any, /) -> bytes:
        """The signature and the pickle of a value."""
        data = _pickle.dumps(value, self._protocol)
        return self._signature(data) + data

    def decode(self, data: bytes, /) -> Any:
        """What the pickle makes. Raises ValueError unless the signature is right."""
        signature, pickled = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if not hmac.compare_digest(signature, self._signature(pickled)):
            raise ValueError("its signature is not of this key: it was not unpickled")
        return _pickle.loads(pickled)

    def _signature(self, pickled: bytes) -> bytes:
        return hmac.digest(self._key, pickled, hashlib.sha256)
