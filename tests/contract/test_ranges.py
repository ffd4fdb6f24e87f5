"""B1, ranges: against a slow and obvious model, and the cases that catch people, one by one."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.contract.disk import fresh, place, place_on, sha
from tests.contract.house import House
from tests.contract.wire import Answer

KNOWN: Final = bytes(range(256)) * 4 + b"end"
SIZE: Final = len(KNOWN)
NAME: Final = sha(KNOWN)
WHEN: Final = "Fri, 13 Feb 2009 23:31:30 GMT"


@pytest.fixture(autouse=True, scope="module")
def _known_blob(stor: House) -> None:
    place_on(stor.pairs[0], KNOWN)


def ranged(stor: House, value: str, **fields: str) -> Answer:
    extra = {name.replace("_", "-"): field for name, field in fields.items()}
    return stor.ask("GET", f"/{NAME}", {"Range": value, **extra})


# The model


class Expected(NamedTuple):
    status: int
    body: bytes | None
    content_range: str | None


def model(value: str) -> Expected:
    """What RFC 9110 says, by looking at every byte: is its position in the range?"""
    found = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", value, re.IGNORECASE | re.ASCII)
    whole = Expected(200, KNOWN, None)
    if found is None or found[0].endswith("=-"):
        return whole
    first, last = found.groups()
    if first and last and int(first) > int(last):
        return whole
    positions = [at for at in range(SIZE) if _is_in(at, first, last)]
    if not positions:
        return Expected(416, None, f"bytes */{SIZE}")
    part = bytes(KNOWN[at] for at in positions)
    return Expected(206, part, f"bytes {positions[0]}-{positions[-1]}/{SIZE}")


def _is_in(at: int, first: str, last: str) -> bool:
    if not first:
        return at >= SIZE - int(last)
    return int(first) <= at and (not last or at <= int(last))


POSITIONS: Final = st.one_of(
    st.integers(0, SIZE + 10),
    st.sampled_from([0, 1, SIZE - 1, SIZE, SIZE + 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**40]),
).map(str)
MAYBE: Final = st.one_of(POSITIONS, st.just(""))
WELL_FORMED: Final = st.builds("bytes={}-{}".format, MAYBE, MAYBE)
ANY_TEXT: Final = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20).map(str.strip)
MALFORMED: Final = st.one_of(ANY_TEXT, ANY_TEXT.map("bytes={}".format))


@settings(max_examples=150)
@given(st.one_of(WELL_FORMED, WELL_FORMED, MALFORMED.filter(lambda value: "," not in value)))
@example("bytes=0-0")
@example("bytes=-1")
@example("bytes=-0")
@example(f"bytes={SIZE}-")
@example(f"bytes=-{SIZE + 1}")
@example("bytes=5-4")
def test_a_range_is_what_the_obvious_model_says(stor: House, value: str) -> None:
    answer, expected = ranged(stor, value), model(value)

    assert (answer.status, answer.headers.get("content-range")) == (expected.status, expected.content_range)
    assert expected.body is None or answer.body == expected.body
    assert answer.headers["content-length"] == str(len(answer.body))


# Cases

PARTS: Final = {
    "the first byte": ("bytes=0-0", KNOWN[:1], f"bytes 0-0/{SIZE}"),
    "the first ten": ("bytes=0-9", KNOWN[:10], f"bytes 0-9/{SIZE}"),
    "the last byte": (f"bytes={SIZE - 1}-{SIZE - 1}", KNOWN[-1:], f"bytes {SIZE - 1}-{SIZE - 1}/{SIZE}"),
    "all": (f"bytes=0-{SIZE - 1}", KNOWN, f"bytes 0-{SIZE - 1}/{SIZE}"),
    "from the start on": ("bytes=0-", KNOWN, f"bytes 0-{SIZE - 1}/{SIZE}"),
    "from the middle on": ("bytes=500-", KNOWN[500:], f"bytes 500-{SIZE - 1}/{SIZE}"),
    "the last three": ("bytes=-3", b"end", f"bytes {SIZE - 3}-{SIZE - 1}/{SIZE}"),
    "the last ones, more than there are": ("bytes=-99999", KNOWN, f"bytes 0-{SIZE - 1}/{SIZE}"),
    "a last position past the end": ("bytes=1000-99999", KNOWN[1000:], f"bytes 1000-{SIZE - 1}/{SIZE}"),
    "a last position past any number": (f"bytes=1000-{'9' * 30}", KNOWN[1000:], f"bytes 1000-{SIZE - 1}/{SIZE}"),
    "leading zeros": ("bytes=0000-0009", KNOWN[:10], f"bytes 0-9/{SIZE}"),
    "the unit in upper case": ("BYTES=0-9", KNOWN[:10], f"bytes 0-9/{SIZE}"),
}

PAST_THE_END: Final = ("bytes=1027-", "bytes=1027-1027", "bytes=99999-", f"bytes={'9' * 30}-", "bytes=-0")

IGNORED: Final = {
    "several ranges": "bytes=0-1,5-6",
    "several ranges with a space": "bytes=0-1, 5-6",
    "several ranges, one past the end": "bytes=0-1,99999-",
    "another unit": "items=0-1",
    "no unit": "0-1",
    "no range": "bytes=",
    "no position": "bytes=-",
    "no dash": "bytes=5",
    "the end before the start": "bytes=9-5",
    "a minus before the start": "bytes=-5-9",
    "two dashes": "bytes=0--9",
    "letters": "bytes=a-b",
    "a sign": "bytes=+0-9",
    "an underscore": "bytes=0-1_0",
    "a fraction": "bytes=0.5-9",
    "another base": "bytes=0x0-0x9",
    "digits that are none to HTTP": "bytes=\xb2-\xb3",
    "a colon": "bytes:0-9",
    "an empty field": "",
}


@pytest.mark.parametrize(("value", "body", "content_range"), PARTS.values(), ids=PARTS.keys())
def test_one_range_is_206_with_its_place(stor: House, value: str, body: bytes, content_range: str) -> None:
    answer = ranged(stor, value)

    assert (answer.status, answer.body, answer.headers["content-range"]) == (206, body, content_range)


@pytest.mark.parametrize("value", PAST_THE_END)
def test_a_range_past_the_end_is_416_with_the_size(stor: House, value: str) -> None:
    answer = ranged(stor, value)

    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{SIZE}")
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize("value", IGNORED.values(), ids=IGNORED.keys())
def test_what_is_not_one_range_of_bytes_is_ignored(stor: House, value: str) -> None:
    answer = ranged(stor, value)

    assert (answer.status, answer.body) == (200, KNOWN)
    assert "content-range" not in answer.headers


def test_a_part_has_the_headers_of_the_whole(stor: House) -> None:
    whole, part = stor.ask("GET", f"/{NAME}").headers, ranged(stor, "bytes=2-5").headers
    own = {"content-length", "content-range", "date"}

    assert {**part, **dict.fromkeys(own, "")} == {**whole, **dict.fromkeys(own, "")}
    assert part["content-length"] == "4"


def test_a_head_has_no_ranges_as_only_a_get_does(stor: House) -> None:
    answer = stor.ask("HEAD", f"/{NAME}", {"Range": "bytes=0-9"})

    assert (answer.status, answer.headers["content-length"]) == (200, str(SIZE))


def test_a_range_of_the_empty_blob_is_416(stor: House) -> None:
    place_on(stor.pairs[0], b"")
    answer = stor.ask("GET", f"/{sha(b'')}", {"Range": "bytes=0-"})

    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */0")


def test_a_range_of_an_unknown_blob_is_404(stor: House) -> None:
    assert stor.ask("GET", f"/{'0' * 64}", {"Range": "bytes=0-9"}).status == 404


@pytest.mark.parametrize(
    ("first", "last"), [(0, 0), (0, 4_999_999), (1_048_575, 1_048_576), (2_500_000, 4_999_999), (4_999_999, 4_999_999)]
)
def test_a_part_of_a_large_blob_is_that_part(stor: House, first: int, last: int) -> None:
    content = fresh(5_000_000)
    place(stor.pairs[1][0], content)
    place(stor.pairs[1][1], content)
    answer = stor.get(content, {"Range": f"bytes={first}-{last}"})

    assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {first}-{last}/5000000")
    assert answer.body == content[first : last + 1]


# If-Range

STANDS: Final = {"the ETag": f'"{NAME}"', "the date": WHEN}
FALLS: Final = {
    "another ETag": f'"{sha(b"another")}"',
    "the ETag as a weak one": f'W/"{NAME}"',
    "the digest without its quotes": NAME,
    "a star": "*",
    "a list": f'"{NAME}", "x"',
    "an earlier date": "Fri, 13 Feb 2009 23:31:29 GMT",
    "a later date": "Fri, 13 Feb 2009 23:31:31 GMT",
    "no date": "yesterday",
}


@pytest.mark.parametrize("validator", STANDS.values(), ids=STANDS.keys())
def test_a_range_stands_if_the_blob_is_the_one_it_was(stor: House, validator: str) -> None:
    answer = ranged(stor, "bytes=3-5", If_Range=validator)

    assert (answer.status, answer.body) == (206, KNOWN[3:6])


@pytest.mark.parametrize("validator", FALLS.values(), ids=FALLS.keys())
@pytest.mark.parametrize("value", ["bytes=3-5", "bytes=99999-"])
def test_a_range_falls_if_the_blob_may_be_another(stor: House, value: str, validator: str) -> None:
    answer = ranged(stor, value, If_Range=validator)

    assert (answer.status, answer.body) == (200, KNOWN)


def test_a_range_past_the_end_stays_416_if_the_blob_is_the_one_it_was(stor: House) -> None:
    assert ranged(stor, "bytes=99999-", If_Range=f'"{NAME}"').status == 416


def test_a_condition_that_fails_lets_the_range_through(stor: House) -> None:
    answer = ranged(stor, "bytes=3-5", If_None_Match='"x"')

    assert (answer.status, answer.body) == (206, KNOWN[3:6])
