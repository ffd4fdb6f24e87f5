"""Conditions and ranges as rules on values."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pystor.http.conditions import Selection, format_date, parse_date, select

ETAG = b'"' + b"ab" * 32 + b'"'
MODIFIED = 784_111_777
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


def selected(size: int = 100, *, ranges: bool = True, **headers: bytes) -> Selection:
    return selected_by(headers, size=size, ranges=ranges)


def selected_by(headers: Mapping[str, bytes], *, size: int = 100, ranges: bool = True) -> Selection:
    fields = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return select(fields, size=size, etag=ETAG, modified=MODIFIED, ranges=ranges)


WHOLE = Selection(200, 0, 100)
UNCHANGED = Selection(304, 0, 0)
PART = Selection(206, 10, 20)

# Ranges


def model(value: str, size: int) -> tuple[int, list[int]]:
    """What RFC 9110 says, looking at every position; an empty blob has no part that could be told."""
    everything = (200, list(range(size)))
    found = re.fullmatch("bytes=([0-9]*)-([0-9]*)", value)
    if found is None or not (found[1] or found[2]):
        return everything
    if not found[1]:
        wanted = [at for at in range(size) if at >= size - int(found[2])]
        return everything if size == 0 and int(found[2]) else (206, wanted) if wanted else (416, [])
    if found[2] and int(found[2]) < int(found[1]):
        return everything
    wanted = [at for at in range(size) if int(found[1]) <= at and (not found[2] or at <= int(found[2]))]
    return (206, wanted) if wanted else (416, [])


NUMBERS = st.integers(0, 25).map(str) | st.sampled_from(["", "00", "007", "9" * 18, str(2**63 - 1), str(2**63)])


@given(
    st.builds("bytes={}-{}".format, NUMBERS, NUMBERS) | st.text("bytes=0123456789-, \t", max_size=12),
    st.integers(0, 20),
)
@example("bytes=0-", 0)
@example("bytes=-0", 0)
@example("bytes=-5", 0)
@example("bytes=0-0", 1)
def test_a_range_is_what_the_slow_model_says(value: str, size: int) -> None:
    chosen = selected(size, range=value.encode())
    plain = value.strip(" \t").replace("= ", "=").replace("=\t", "=")

    assert (chosen.status, list(range(chosen.start, chosen.stop))) == model(re.sub(r"(?<==)[ \t]+", "", plain), size)


@pytest.mark.parametrize(
    ("value", "expected"),
    {
        b"bytes=" + b"9" * 20 + b"-": Selection(416, 0, 0),
        b"bytes=" + b"9" * 5000 + b"-": Selection(416, 0, 0),
        b"bytes=10-" + b"9" * 20: Selection(206, 10, 100),
        b"bytes=10-" + b"9" * 5000: Selection(206, 10, 100),
        b"bytes=-" + b"9" * 5000: Selection(206, 0, 100),
        b"bytes=" + b"0" * 30 + b"10-" + b"0" * 30 + b"19": PART,
    }.items(),
    ids=lambda value: value[:20].decode() if isinstance(value, bytes) else None,
)
def test_a_number_of_any_length_is_a_number(value: bytes, expected: Selection) -> None:
    assert selected(range=value) == expected


IGNORED = (
    *(b"", b"bytes", b"bytes=", b"bytes=-", b"bytes=5", b"items=0-1", b"0-1", b"bytes=9-5", b"bytes:0-1"),
    *(b"bytes=--1", b"bytes=-5-9", b"bytes=a-b", b"bytes=+0-9", b"bytes=0_1-9", b"bytes=0x0-9", b"bytes=\xb2-"),
    *(b"bytes=0-1,5-6", b"bytes=0-1, 5-6", b"bytes=0-1,", b"bytes=0 -1", b"bytes=\n0-1", "bytes=\u0661-".encode()),
)


@pytest.mark.parametrize("value", IGNORED)
def test_what_is_no_single_range_of_bytes_is_ignored(value: bytes) -> None:
    assert selected(range=value) == WHOLE


def test_the_unit_has_no_case() -> None:
    assert selected(range=b"BYTES=10-19") == PART


def test_a_head_has_no_range() -> None:
    assert selected(ranges=False, range=b"bytes=10-19") == WHOLE
    assert selected(ranges=False, range=b"bytes=500-") == WHOLE


# If-Range

IF_RANGE = {
    "the etag": (ETAG, PART),
    "the etag with spaces around it": (b" " + ETAG + b" ", PART),
    "the etag, weak": (b"W/" + ETAG, WHOLE),
    "the etag without quotes": (ETAG[1:-1], WHOLE),
    "another etag": (b'"other"', WHOLE),
    "the date": (DATE, PART),
    "a later date": (format_date(MODIFIED + 1), WHOLE),
    "an earlier date": (format_date(MODIFIED - 1), WHOLE),
    "no date": (b"yesterday", WHOLE),
    "nothing": (b"", WHOLE),
}


@pytest.mark.parametrize(("value", "expected"), IF_RANGE.values(), ids=IF_RANGE)
def test_if_range_holds_for_the_very_same_blob_only(value: bytes, expected: Selection) -> None:
    assert selected(range=b"bytes=10-19", if_range=value) == expected


def test_if_range_without_a_range_is_nothing() -> None:
    assert selected(if_range=b'"other"') == WHOLE


# If-None-Match and If-Modified-Since

CONDITIONS: dict[str, tuple[dict[str, bytes], Selection]] = {
    "the etag": ({"if_none_match": ETAG}, UNCHANGED),
    "the etag, weak": ({"if_none_match": b"W/" + ETAG}, UNCHANGED),
    "anything": ({"if_none_match": b" * "}, UNCHANGED),
    "one of several": ({"if_none_match": b'"a", W/"b",' + ETAG + b" , "}, UNCHANGED),
    "several others": ({"if_none_match": b'"a", "b"'}, WHOLE),
    "an empty field": ({"if_none_match": b""}, WHOLE),
    "without quotes": ({"if_none_match": ETAG[1:-1]}, WHOLE),
    "in upper case": ({"if_none_match": ETAG.upper()}, WHOLE),
    "the date": ({"if_modified_since": DATE}, UNCHANGED),
    "a later date": ({"if_modified_since": format_date(MODIFIED + 1)}, UNCHANGED),
    "an earlier date": ({"if_modified_since": format_date(MODIFIED - 1)}, WHOLE),
    "no date": ({"if_modified_since": b"yesterday"}, WHOLE),
    "two dates": ({"if_modified_since": DATE + b", " + DATE}, WHOLE),
    "another etag wins over the date": ({"if_none_match": b'"other"', "if_modified_since": DATE}, WHOLE),
    "the etag wins over an earlier date": (
        {"if_none_match": ETAG, "if_modified_since": format_date(0)},
        UNCHANGED,
    ),
    "a condition wins over a range": ({"if_none_match": ETAG, "range": b"bytes=10-19"}, UNCHANGED),
    "a condition wins over a range past the end": ({"if_none_match": ETAG, "range": b"bytes=500-"}, UNCHANGED),
    "a condition that fails leaves the range": ({"if_none_match": b'"other"', "range": b"bytes=10-19"}, PART),
}


@pytest.mark.parametrize(("headers", "expected"), CONDITIONS.values(), ids=CONDITIONS)
def test_conditions(headers: dict[str, bytes], expected: Selection) -> None:
    assert selected_by(headers) == expected


def test_a_head_is_conditional_too() -> None:
    assert selected(ranges=False, if_none_match=ETAG) == UNCHANGED


# Dates

DATES = {
    DATE: MODIFIED,
    b"Sunday, 06-Nov-94 08:49:37 GMT": MODIFIED,
    b"Sun Nov  6 08:49:37 1994": MODIFIED,
    b"Thu, 01 Jan 1970 00:00:00 GMT": 0,
    b"Mon, 19 Jan 2038 03:14:08 GMT": 2**31,
    b"": None,
    b"0": None,
    b"yesterday": None,
    b"Sun, 06 Nov 1994": None,
    b"Sun, 36 Nov 1994 08:49:37 GMT": None,
    b"Sun, 06 Nov 1994 25:49:37 GMT": None,
    b"Sun, 06 Nov 999999999999999999999 08:49:37 GMT": None,
    b"Sun, 06 Nov " + b"9" * 5000 + b" 08:49:37 GMT": None,
    "Sun, 06 Nov \u0661994 08:49:37 GMT".encode(): None,
    b"Sun, 06 Nov 1994 08:49:37 \xff": None,
}


@pytest.mark.parametrize(("text", "moment"), DATES.items(), ids=[str(text)[:40] for text in DATES])
def test_dates_of_the_three_kinds_are_read_and_all_else_is_none(text: bytes, moment: int | None) -> None:
    assert parse_date(text) == moment


@given(st.binary(max_size=40) | st.text("SunNov GMT0123456789:,-+()", max_size=40).map(str.encode))
def test_no_text_is_an_error_to_the_reader_of_dates(text: bytes) -> None:
    assert parse_date(text) is None or isinstance(parse_date(text), int)


@given(st.integers(0, 253_402_300_799))
def test_a_date_that_was_written_is_read_back(moment: int) -> None:
    assert parse_date(format_date(moment)) == moment
