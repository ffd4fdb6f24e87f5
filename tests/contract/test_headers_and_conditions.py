"""B1, GET and HEAD: the headers of a blob, conditional requests, and which condition wins."""

from __future__ import annotations

import base64
import hashlib
import time
from email.utils import formatdate, parsedate_to_datetime
from typing import Final

import pytest

from tests.contract.conftest import HouseFactory
from tests.contract.disk import OLD, fresh, place, place_on, sha
from tests.contract.house import House
from tests.contract.wire import Fields, Wire, request
from tests.support.mounts import Mounts

KNOWN: Final = b"A blob with headers and conditions.\n" * 100
NAME: Final = sha(KNOWN)
ETAG: Final = f'"{NAME}"'
OTHER: Final = f'"{sha(b"another")}"'

WHEN: Final = "Fri, 13 Feb 2009 23:31:30 GMT"
EARLIER: Final = "Fri, 13 Feb 2009 23:31:29 GMT"
LATER: Final = "Fri, 13 Feb 2009 23:31:31 GMT"

METHODS: Final = pytest.mark.parametrize("method", ["GET", "HEAD"])


@pytest.fixture(autouse=True, scope="module")
def _known_blob(stor: House) -> None:
    place_on(stor.pairs[0], KNOWN)


# Headers


@pytest.mark.parametrize("size", [100, 100_000, 2 << 20])
def test_a_time_that_no_date_has_is_told_as_the_nearest(make_stor: HouseFactory, mounts: Mounts, size: int) -> None:
    pair, content = (mounts.tmpfs(64 << 20), mounts.tmpfs(64 << 20)), fresh(size)
    stor = make_stor(pairs=[pair], workers=1)
    for modified, told in ((1 << 62, "Fri, 31 Dec 9999 23:59:59 GMT"), (-1 << 62, "Mon, 01 Jan 0001 00:00:00 GMT")):
        for storage in pair:
            place(storage, content, modified)

        answer = stor.get(content)
        assert (answer.status, answer.body, answer.headers["last-modified"]) == (200, content, told)
        assert stor.get(content, {"If-None-Match": f'"{sha(content)}"'}).status == 304


HEADERS: Final = {
    "etag": ETAG,
    "accept-ranges": "bytes",
    "cache-control": "public, max-age=31536000, immutable",
    "content-type": "application/octet-stream",
    "x-content-type-options": "nosniff",
    "repr-digest": f"sha-256=:{base64.b64encode(hashlib.sha256(KNOWN).digest()).decode()}:",
    "last-modified": WHEN,
    "content-length": str(len(KNOWN)),
}


@METHODS
@pytest.mark.parametrize("spelling", [NAME, NAME.upper()], ids=["lower-case", "upper-case"])
@pytest.mark.parametrize(("name", "value"), HEADERS.items(), ids=HEADERS.keys())
def test_a_blob_comes_with_its_header(stor: House, method: str, spelling: str, name: str, value: str) -> None:
    assert stor.ask(method, f"/{spelling}").headers[name] == value


@METHODS
def test_a_large_blob_comes_with_the_same_headers(stor: House, method: str) -> None:
    content = fresh(3_000_000)
    place_on(stor.pairs[1], content)
    headers = stor.ask(method, f"/{sha(content)}").headers

    assert headers.keys() >= HEADERS.keys()
    assert (headers["etag"], headers["content-length"]) == (f'"{sha(content)}"', "3000000")


@pytest.mark.parametrize("target", ["/xyz", f"/{'0' * 64}"], ids=["malformed", "unknown"])
@pytest.mark.parametrize("name", ["etag", "last-modified", "repr-digest", "accept-ranges"])
def test_an_error_has_no_header_of_a_blob(stor: House, target: str, name: str) -> None:
    assert name not in stor.ask("GET", target).headers


@pytest.mark.parametrize("target", ["/xyz", f"/{'0' * 64}"], ids=["malformed", "unknown"])
def test_an_error_is_not_kept_for_a_year(stor: House, target: str) -> None:
    assert "immutable" not in stor.ask("GET", target).headers.get("cache-control", "")


def test_a_date_of_the_answer_is_now(stor: House) -> None:
    headers = stor.ask("GET", f"/{NAME}").headers

    assert abs(parsedate_to_datetime(headers["date"]).timestamp() - time.time()) < 60


# Conditions

NOT_MODIFIED: Final[dict[str, Fields]] = {
    "the ETag": {"If-None-Match": ETAG},
    "the ETag as a weak one": {"If-None-Match": f"W/{ETAG}"},
    "a list with the ETag first": {"If-None-Match": f"{ETAG}, {OTHER}"},
    "a list with the ETag last": {"If-None-Match": f"{OTHER},{ETAG}"},
    "a list with the ETag as a weak one": {"If-None-Match": f'"a", W/"b" , W/{ETAG}'},
    "a list with a comma in a tag": {"If-None-Match": f'"a,b", {ETAG}'},
    "anything": {"If-None-Match": "*"},
    "the date": {"If-Modified-Since": WHEN},
    "a later date": {"If-Modified-Since": LATER},
    "the date as RFC 850 had it": {"If-Modified-Since": "Friday, 13-Feb-09 23:31:30 GMT"},
    "the date as asctime has it": {"If-Modified-Since": "Fri Feb 13 23:31:30 2009"},
    "the ETag, though an earlier date": {"If-None-Match": ETAG, "If-Modified-Since": EARLIER},
    "the ETag, though a range": {"If-None-Match": ETAG, "Range": "bytes=0-1"},
    "the date, though a range": {"If-Modified-Since": WHEN, "Range": "bytes=0-1"},
    "the ETag, though a range past the end": {"If-None-Match": ETAG, "Range": "bytes=99999-"},
}

MODIFIED: Final[dict[str, Fields]] = {
    "another ETag": {"If-None-Match": OTHER},
    "another weak ETag": {"If-None-Match": f"W/{OTHER}"},
    "a list of others": {"If-None-Match": f'{OTHER}, "", W/"x"'},
    "the digest without its quotes": {"If-None-Match": NAME},
    "the ETag in upper case": {"If-None-Match": ETAG.upper()},
    "the ETag inside of another": {"If-None-Match": f'"x{NAME}"'},
    "a star inside of a tag": {"If-None-Match": '"*"'},
    "nothing": {"If-None-Match": ""},
    "an earlier date": {"If-Modified-Since": EARLIER},
    "no date": {"If-Modified-Since": "yesterday"},
    "an empty date": {"If-Modified-Since": ""},
    "a date that no calendar has": {"If-Modified-Since": "Fri, 31 Feb 2019 25:61:61 GMT"},
    "another ETag, though the date": {"If-None-Match": OTHER, "If-Modified-Since": WHEN},
    "another ETag, though a later date": {"If-None-Match": OTHER, "If-Modified-Since": LATER},
}


@METHODS
@pytest.mark.parametrize("fields", NOT_MODIFIED.values(), ids=NOT_MODIFIED.keys())
def test_a_client_that_has_the_blob_is_told_304_without_a_body(stor: House, method: str, fields: Fields) -> None:
    answer = stor.ask(method, f"/{NAME}", fields)

    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["etag"] == ETAG


@pytest.mark.parametrize("fields", NOT_MODIFIED.values(), ids=NOT_MODIFIED.keys())
def test_a_304_repeats_what_a_cache_needs_and_lies_about_no_length(stor: House, fields: Fields) -> None:
    headers = stor.ask("GET", f"/{NAME}", fields).headers

    assert headers["cache-control"] == HEADERS["cache-control"]
    assert headers.get("content-length", str(len(KNOWN))) == str(len(KNOWN))


@METHODS
@pytest.mark.parametrize("fields", MODIFIED.values(), ids=MODIFIED.keys())
def test_a_client_that_has_not_the_blob_is_sent_it(stor: House, method: str, fields: Fields) -> None:
    answer = stor.ask(method, f"/{NAME}", fields)

    assert (answer.status, answer.body) == (200, KNOWN if method == "GET" else b"")


def test_a_connection_goes_on_after_a_304(stor: House) -> None:
    with Wire(stor.address) as wire:
        for _ in range(3):
            wire.send(request("GET", f"/{NAME}", {"If-None-Match": ETAG}), request("GET", f"/{NAME}"))
            assert (wire.answer().status, wire.answer().body) == (304, KNOWN)


def test_a_condition_in_several_fields_is_one_list(stor: House) -> None:
    with Wire(stor.address) as wire:
        wire.send(
            f"GET /{NAME} HTTP/1.1\r\nHost: x\r\nIf-None-Match: {OTHER}\r\nIf-None-Match: {ETAG}\r\n\r\n".encode()
        )
        assert wire.answer().status == 304


@pytest.mark.parametrize("fields", [{"If-None-Match": "*"}, {"If-Modified-Since": LATER}], ids=["star", "date"])
def test_an_unknown_blob_stays_unknown_under_a_condition(stor: House, fields: Fields) -> None:
    assert stor.ask("GET", f"/{'0' * 64}", fields).status == 404


def test_a_large_blob_is_told_304_too(stor: House) -> None:
    content = fresh(3_000_000)
    place_on(stor.pairs[1], content)

    assert stor.ask("GET", f"/{sha(content)}", {"If-None-Match": f'"{sha(content)}"'}).status == 304
    assert stor.ask("GET", f"/{sha(content)}", {"If-Modified-Since": WHEN}).status == 304


def test_the_date_of_the_answer_is_good_for_the_next_condition(stor: House) -> None:
    content = fresh()
    place_on(stor.pairs[0], content, OLD + 0.7)
    date = stor.get(content).headers["last-modified"]

    assert date == formatdate(OLD, usegmt=True)
    assert stor.get(content, {"If-Modified-Since": date}).status == 304
