"""The rules of a shared HTTP cache, without a cache: RFC 9111's and RFC 9110's sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserve.integrations import http_rules as rules

NOW = 1_000_000.0
DATE = b"Mon, 12 Jan 1970 13:46:40 GMT"  # NOW
LATER = b"Mon, 12 Jan 1970 13:47:40 GMT"


def lasts(
    status: int = 200,
    *,
    route: float | None = None,
    default: float | None = None,
    **response: bytes,
) -> float:
    """The seconds that a response may be kept; its fields as keywords, - written as _."""
    named = {name.replace("_", "-").encode(): value for name, value in response.items()}
    return rules.lifetime(status, named, route, default, NOW)


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [
        (b"max-age=60", 60),
        (b"max-age=60, s-maxage=7", 7),
        (b"s-maxage=7,max-age=60", 7),
        (b'max-age="60"', 60),
        (b"MAX-AGE=60", 60),
        (b"public, max-age=60", 60),
        (b"max-age=60, max-age=9", 60),  # the first, as 4.2.1 allows
        (b"max-age=99999999999999", 2**31),
        (b"max-age=0", 0),
        (b"s-maxage=0, max-age=60", 0),
        (b"max-age=-1", 0),
        (b"max-age=soon", 0),
        (b"max-age", 0),
        (b"no-store, max-age=60", 0),
        (b"private, max-age=60", 0),
        (b'private="x-user", max-age=60', 0),
        (b"no-cache, max-age=60", 0),
        (b'max-age=60, unknown="a, no-store"', 60),
        (b"public", 0),
        (b"", 0),
    ],
)
def test_lifetime_by_cache_control(cache_control: bytes, seconds: float) -> None:
    assert lasts(cache_control=cache_control) == seconds


def test_lifetime_by_expires() -> None:
    assert lasts(expires=LATER, date=DATE) == 60
    assert lasts(expires=LATER) == 60
    assert lasts(expires=DATE, date=LATER) == 0
    assert lasts(expires=b"0") == 0
    assert lasts(expires=LATER, cache_control=b"max-age=5") == 5


def test_the_route_counts_before_the_response_and_that_before_the_default() -> None:
    assert lasts(route=10, default=20, cache_control=b"max-age=30") == 10
    assert lasts(default=20, cache_control=b"max-age=30") == 30
    assert lasts(default=20) == 20
    assert lasts(route=10) == 10
    assert lasts(route=0.5) == 0.5
    assert lasts(route=-1) == 0
    for forbidden in (b"no-store", b"private", b"no-cache", b"max-age=0", b"s-maxage=0"):
        assert lasts(route=10, default=20, cache_control=forbidden) == 0


def test_what_is_never_kept() -> None:
    assert lasts(route=10, set_cookie=b"a=b") == 0
    assert lasts(route=10, vary=b"Accept, *") == 0
    for status in (100, 206, 302, 304, 307, 400, 401, 403, 429, 500, 502, 503):
        assert lasts(status, route=10, cache_control=b"max-age=60") == 0, status


def test_errors_are_kept_only_if_they_say_so() -> None:
    for status in (404, 405, 410, 414, 501):
        assert lasts(status, route=10, default=20) == 0, status
        assert lasts(status, route=10, cache_control=b"max-age=60") == 60, status


def test_time_in_other_caches_counts() -> None:
    assert lasts(age=b"50", cache_control=b"max-age=60") == 10
    assert lasts(age=b"70", cache_control=b"max-age=60") == 0
    assert lasts(age=b"soon", cache_control=b"max-age=60") == 60


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        (b"max-age=5", False),
        (b"max-age=10", True),
        (b"max-age=0", False),
        (b"max-age=x", False),
        (b"no-cache", False),
        (b"min-fresh=50", True),
        (b"min-fresh=51", False),
        (b"max-stale=100", True),
        (b"only-if-cached", True),
    ],
)
def test_what_a_request_takes(asked: bytes, taken: bool) -> None:
    assert rules.accepts(rules.directives(asked), age=10, left=50) is taken


@pytest.mark.parametrize(
    ("given_tags", "tag", "same"),
    [
        (b'"a"', b'"a"', True),
        (b'W/"a"', b'"a"', True),
        (b'"a"', b'W/"a"', True),
        (b'"b", "a"', b'"a"', True),
        (b'"a,b"', b'"a,b"', True),
        (b"*", b'"a"', True),
        (b'"b"', b'"a"', False),
        (b'"a', b'"a"', False),
        (b"a", b'"a"', False),
        (b'"A"', b'"a"', False),
    ],
)
def test_entity_tags_are_compared_weakly(given_tags: bytes, tag: bytes, same: bool) -> None:
    assert rules.is_not_modified({b"if-none-match": given_tags}, {b"etag": tag}) is same


def test_modified_since() -> None:
    response = {b"last-modified": DATE}
    assert rules.is_not_modified({b"if-modified-since": DATE}, response)
    assert rules.is_not_modified({b"if-modified-since": LATER}, response)
    assert not rules.is_not_modified({b"if-modified-since": DATE}, {b"last-modified": LATER})
    assert not rules.is_not_modified({b"if-modified-since": b"never"}, response)
    assert not rules.is_not_modified({b"if-modified-since": DATE}, {})
    # The tags count alone where there are any.
    both = {b"if-none-match": b'"b"', b"if-modified-since": LATER}
    assert not rules.is_not_modified(both, response | {b"etag": b'"a"'})


def test_the_order_of_parameters_makes_no_difference_but_for_one_name() -> None:
    def of(query: bytes, *ignored: str) -> str | None:
        return rules.page("http", b"shop", "/tea", query, ignored)

    assert of(b"a=1&b=2") == of(b"b=2&a=1") == of(b"&b=2&&a=1")
    assert of(b"a=1&a=2") != of(b"a=2&a=1")
    assert of(b"a=1") != of(b"a=2") != of(b"")
    assert of(b"a=1&utm_source=x", "utm_source") == of(b"a=1")
    assert of(b"utm%5Fsource=x", "utm_source") == of(b"")


def test_no_url_can_be_written_as_another() -> None:
    pages = [
        rules.page("http", b"shop", "/a/b", b""),
        rules.page("http", b"shop", "/a", b"b"),
        rules.page("http", b"shop", "/a?b", b""),  # %3F in the URL
        rules.page("http", b"shop", "/a%3Fb", b""),  # %253F
        rules.page("https", b"shop", "/a", b"b"),
        rules.page("http", b"shop:81", "/a", b"b"),
        rules.page("http", b"shop", "/A", b"b"),
        rules.page("http", b"shop", "/a\n", b"b"),
        rules.page("http", b"shop", "/" + "a" * 500, b""),
        rules.page("http", b"shop", "/" + "a" * 501, b""),
    ]
    assert len(set(pages)) == len(pages)
    assert rules.page("http", b"SHOP", "/a", b"") == rules.page("http", b"shop", "/a", b"")
    for forged in (b"shop/a", b"shop?a", b"shop#a", b"a shop", b"user@shop"):
        assert rules.page("http", forged, "/a", b"") is None


TEXTS = st.text(st.sampled_from("a/?&=%#: \n\ud800é"), max_size=12)


@given(TEXTS, st.binary(max_size=12), TEXTS, st.binary(max_size=12))
def test_pages_are_keys_and_different(
    path: str, query: bytes, other_path: str, other_query: bytes
) -> None:
    page = rules.page("http", b"shop", "/" + path, query)
    other = rules.page("http", b"shop", "/" + other_path, other_query)
    assert page is not None
    assert 0 < len(page.encode()) <= rules.PAGE_BYTES_MAX
    if path != other_path:
        assert page != other


def test_variants() -> None:
    names = (b"accept", b"cookie")
    told = [{}, {b"accept": b"a"}, {b"cookie": b"a"}, {b"accept": b""}, {b"accept": b"a, b"}]
    assert len({rules.variant(names, request) for request in told}) == len(told)
    assert rules.variant(names, told[1]) == rules.variant(names[::-1], told[1] | {b"te": b"x"})
