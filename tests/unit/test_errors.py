"""The errors: three families under one root, and codes that never change their meaning."""

from __future__ import annotations

import pickle

import pytest

from kvserve import errors
from kvserve.errors import (
    InternalError,
    KvserveError,
    MisuseError,
    ServerError,
    from_wire,
)

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type)]
ERRORS = [kind for kind in ALL if issubclass(kind, KvserveError)]


def test_codes_are_part_of_the_protocol() -> None:
    """A client and a server of different versions meet, so a code never changes its meaning."""
    assert {kind.wire_code: kind.__name__ for kind in ERRORS} == {
        0: "KvserveError",
        10: "MisuseError",
        11: "InvalidKey",
        12: "InvalidValue",
        13: "ValueTooLarge",
        14: "InvalidTTL",
        15: "InvalidArgument",
        16: "NotACounter",
        17: "CounterOverflow",
        18: "InvalidName",
        19: "ClientClosed",
        20: "ConfigError",
        30: "ServerError",
        31: "ServerUnavailable",
        32: "ServerBusy",
        33: "RequestTimeout",
        34: "OutcomeUnknown",
        35: "AlreadyServed",
        36: "LimitError",
        37: "ForeignObject",
        38: "StoreUnavailable",
        39: "LockTimeout",
        40: "LockLost",
        41: "WriteRefused",
        44: "WorkerCrashed",
        50: "InternalError",
        51: "ProtocolError",
        52: "TableCorrupt",
    }


def test_no_two_errors_share_a_code() -> None:
    assert len({kind.wire_code for kind in ERRORS}) == len(ERRORS)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_belongs_to_exactly_one_family(kind: type[KvserveError]) -> None:
    families = [family for family in (MisuseError, ServerError, InternalError)
                if issubclass(kind, family)]  # fmt: skip
    assert len(families) == (0 if kind is KvserveError else 1)
    assert kind.__doc__


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_crosses_the_wire_and_survives_pickle(kind: type[KvserveError]) -> None:
    """Pickle, because multiprocessing and celery carry errors between processes that way."""
    error = from_wire(kind.wire_code, "the text")
    assert type(error) is kind
    assert str(error) == "the text"
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (kind, "the text")


@pytest.mark.parametrize("code", [-1, 1, 53, 10_000])
def test_unknown_code_is_our_bug(code: int) -> None:
    assert type(from_wire(code, "?")) is InternalError


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InvalidKey, ValueError),
        (errors.ServerUnavailable, ConnectionError),
        (errors.RequestTimeout, TimeoutError),
        (errors.ForeignObject, PermissionError),
    ],
)
def test_errors_are_what_callers_already_catch(
    kind: type[KvserveError], builtin: type[Exception]
) -> None:
    assert issubclass(kind, builtin)


def test_a_miss_is_not_an_error() -> None:
    assert not any("Miss" in kind.__name__ and "Misuse" not in kind.__name__ for kind in ERRORS)
