"""A1, GET and HEAD: every row as (request, status, exact body), and its HEAD twin."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final, NamedTuple

import pytest

from tests.contract.disk import OLD, fresh, place_on, replica, sha
from tests.contract.house import House
from tests.contract.wire import Wire, request

KNOWN: Final = b"A blob that the contract knows.\n"
NAME: Final = sha(KNOWN)
MIXED: Final = "".join(digit.upper() if at % 2 else digit for at, digit in enumerate(NAME))
EMPTY: Final = hashlib.sha256().hexdigest()
ZEROS: Final = "0" * 64


class Row(NamedTuple):
    """One line of the table; a body of None is not fixed by the contract."""

    claim: str
    target: str
    status: int
    body: bytes | None


def malformed(claim: str, name: str) -> Row:
    return Row(claim, f"/{name}", 404, f"Given hash '{name}' isn't SHA256".encode())


ROWS: Final = (
    Row("the root says who it is", "/", 200, f"This is Stor {version('pystor')}".encode()),
    Row("the root ignores a query", "/?a=b", 200, f"This is Stor {version('pystor')}".encode()),
    Row("status is OK when every storage is there", "/status", 200, b"OK"),
    Row("live answers", "/live", 200, None),
    malformed("a word is no digest", "xyz"),
    malformed("63 digits are no digest", NAME[:63]),
    malformed("65 digits are no digest", NAME + "0"),
    malformed("the letter g is no digit", "g" + NAME[1:]),
    malformed("a suffix makes no digest", NAME + ".dat"),
    malformed("a sign makes no digest", "+" + NAME[1:]),
    malformed("an underscore makes no digest", NAME[:32] + "_" + NAME[33:]),
    malformed("a dot is no digest", "."),
    Row("a query is no part of a malformed digest", "/xyz?/a/b", 404, b"Given hash 'xyz' isn't SHA256"),
    Row("an encoded space makes no digest", f"/{NAME[:63]}%20", 404, None),
    Row("an encoded line end after a digest makes none", f"/{NAME}%0a", 404, None),
    Row("digits of another script make no digest", "/" + "%D9%A3" * 64, 404, None),
    Row("wide digits make no digest", "/" + "%EF%BC%91" * 64, 404, None),
    Row("bytes that are no UTF-8 make no digest", "/" + "%FF" * 64, 404, None),
    Row("an unknown blob is not found", f"/{ZEROS}", 404, f"File '{ZEROS}' not found".encode()),
    Row("an unknown blob with a query is not found", f"/{ZEROS}?x=1", 404, f"File '{ZEROS}' not found".encode()),
    Row("an unknown blob is named as it was asked for", f"/{'aB' * 32}", 404, f"File '{'aB' * 32}' not found".encode()),
    Row("a known blob is served", f"/{NAME}", 200, KNOWN),
    Row("a known blob is served by its name in upper case", f"/{NAME.upper()}", 200, KNOWN),
    Row("a known blob is served by its name in mixed case", f"/{MIXED}", 200, KNOWN),
    Row("a query is ignored", f"/{NAME}?download=1&x=/../y", 200, KNOWN),
    Row("an empty query is ignored", f"/{NAME}?", 200, KNOWN),
    Row("an encoded digit is the digit", f"/%{ord(NAME[0]):02x}{NAME[1:]}", 200, KNOWN),
    Row("a target in absolute form is the same", f"http://stor.test/{NAME}", 200, KNOWN),
    Row("the empty blob is a blob like any other", f"/{EMPTY}", 200, b""),
    Row("two segments are not found", "/a/b", 404, None),
    Row("a digest and a segment are not found", f"/{NAME}/x", 404, None),
    Row("a segment and a digest are not found", f"/x/{NAME}", 404, None),
    Row("two digests are not found", f"/{NAME}/{NAME}", 404, None),
    Row("a segment below status is not found", "/status/x", 404, None),
    Row("an encoded slash leads nowhere", f"/..%2f{NAME}", 404, None),
    Row("encoded dots lead nowhere", "/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404, None),
)

BY_CLAIM: Final = pytest.mark.parametrize("row", ROWS, ids=[row.claim for row in ROWS])


@pytest.fixture(autouse=True, scope="module")
def _known_blobs(stor: House) -> Iterator[None]:
    place_on(stor.pairs[0], KNOWN)
    for storage in stor.storages:  # other tests may have stored it, at another time
        replica(storage, EMPTY).unlink(missing_ok=True)
    placed = place_on(stor.pairs[1], b"")
    yield
    for path in placed:
        path.unlink(missing_ok=True)


@BY_CLAIM
def test_a_get_answers_as_its_row_says(stor: House, row: Row) -> None:
    answer = stor.ask("GET", row.target)

    assert (answer.status, answer.body if row.body is None else row.body) == (row.status, answer.body)


@BY_CLAIM
def test_a_get_declares_the_length_of_its_body(stor: House, row: Row) -> None:
    answer = stor.ask("GET", row.target)

    assert answer.headers["content-length"] == str(len(answer.body))


@BY_CLAIM
def test_a_head_is_the_get_without_its_body(stor: House, row: Row) -> None:
    get, head = stor.ask("GET", row.target), stor.ask("HEAD", row.target)

    assert (head.status, head.body) == (get.status, b"")
    assert {**head.headers, "date": ""} == {**get.headers, "date": ""}


@pytest.mark.parametrize("row", [row for row in ROWS if row.status == 404], ids=lambda row: row.claim)
def test_an_error_is_one_line_of_plain_text(stor: House, row: Row) -> None:
    answer = stor.ask("GET", row.target)

    assert answer.headers["content-type"].startswith("text/plain")
    assert len(answer.body.splitlines()) == 1, answer.body


def test_a_known_blob_has_its_length_and_the_time_of_its_file(stor: House) -> None:
    headers = stor.ask("GET", f"/{NAME}").headers

    assert headers["content-length"] == str(len(KNOWN))
    assert headers["last-modified"] == "Fri, 13 Feb 2009 23:31:30 GMT"


def test_the_time_of_a_file_is_cut_to_whole_seconds(stor: House) -> None:
    content = fresh()
    place_on(stor.pairs[0], content, OLD + 0.999)

    assert stor.ask("HEAD", f"/{sha(content)}").headers["last-modified"] == "Fri, 13 Feb 2009 23:31:30 GMT"


def test_many_requests_go_over_one_connection(stor: House) -> None:
    with Wire(stor.address) as wire:
        for row in ROWS * 3:
            wire.send(request("GET", row.target))
            assert wire.answer().status == row.status


def test_requests_sent_at_once_are_answered_in_their_order(stor: House) -> None:
    rows = [row for row in ROWS if row.body is not None]
    with Wire(stor.address) as wire:
        wire.send(*(request("GET", row.target) for row in rows))
        bodies = [wire.answer().body for _ in rows]

    assert bodies == [row.body for row in rows]


def test_a_client_of_http_1_0_is_served_and_hung_up_on(stor: House) -> None:
    with Wire(stor.address) as wire:
        wire.send(f"GET /{NAME} HTTP/1.0\r\n\r\n".encode())
        answer = wire.answer()
        after = wire.rest()

    assert (answer.status, answer.body, after) == (200, KNOWN, b"")


def test_a_large_blob_comes_whole(stor: House) -> None:
    content = fresh(9_000_001)
    place_on(stor.pairs[1], content)

    assert stor.ask("GET", f"/{sha(content)}").body == content


def test_a_blob_stored_while_the_service_runs_is_found_though_it_was_not_before(stor: House) -> None:
    content = fresh()
    assert stor.ask("GET", f"/{sha(content)}").status == 404
    place_on(stor.pairs[0], content)

    assert [stor.ask("GET", f"/{sha(content)}").body for _ in range(10)] == [content] * 10
