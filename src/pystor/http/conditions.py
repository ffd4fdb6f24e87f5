"""Conditional requests and ranges (RFC 9110, sections 13 and 14), as rules on values. Nothing here reads or sends."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, NamedTuple

from pystor.http.messages import CONDITIONAL

_ONE_RANGE: Final = re.compile(rb"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.ASCII | re.IGNORECASE)
_ENTITY_TAG: Final = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_DAYS: Final = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_MONTHS: Final = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_LONGEST_DATE: Final = 40  # two dates are none
_LONGEST_NUMBER: Final = 19  # digits; no file is longer, and int() of a long text takes long
_ENDLESS: Final = 10**_LONGEST_NUMBER


class Selection(NamedTuple):
    """What of a blob is answered, and how: 200, 206, 304 or 416, and the bytes from `start` up to `stop`."""

    status: int
    start: int
    stop: int


_UNCHANGED: Final = Selection(304, 0, 0)


def select(headers: Mapping[bytes, bytes], *, size: int, etag: bytes, modified: int, ranges: bool) -> Selection:
    """Choose by the request's header fields; `modified` is in seconds since the epoch, `ranges` false for a HEAD."""
    if CONDITIONAL.isdisjoint(headers):
        return Selection(200, 0, size)
    if _is_unchanged(headers, etag, modified):
        return _UNCHANGED
    wanted = headers.get(b"range") if ranges else None
    if wanted is None or not _if_range_holds(headers.get(b"if-range"), etag, modified):
        return Selection(200, 0, size)
    return _select_range(wanted, size)


def _is_unchanged(headers: Mapping[bytes, bytes], etag: bytes, modified: int) -> bool:
    tags = headers.get(b"if-none-match")
    if tags is not None:
        return tags.strip() == b"*" or etag in _ENTITY_TAG.findall(tags)
    since = headers.get(b"if-modified-since")
    moment = None if since is None else parse_date(since)
    return moment is not None and modified <= moment


def _if_range_holds(validator: bytes | None, etag: bytes, modified: int) -> bool:
    if validator is None:
        return True
    validator = validator.strip()
    if validator.startswith((b'"', b"W/")):
        return validator == etag
    return parse_date(validator) == modified


def _select_range(wanted: bytes, size: int) -> Selection:
    everything = Selection(200, 0, size)
    match = _ONE_RANGE.fullmatch(wanted.strip())
    if match is None:
        return everything
    first, last = match.groups()
    if not first:
        return _select_suffix(_number(last), size) if last else everything
    start = _number(first)
    stop = _number(last) + 1 if last else max(size, start + 1)
    if stop <= start:
        return everything
    stop = min(stop, size)
    return Selection(206, start, stop) if start < size else Selection(416, 0, 0)


def _number(digits: bytes) -> int:
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) <= _LONGEST_NUMBER else _ENDLESS


def _select_suffix(length: int, size: int) -> Selection:
    if length == 0:
        return Selection(416, 0, 0)
    # Every suffix of an empty blob is the empty blob, which no Content-Range can express.
    return Selection(206, max(0, size - length), size) if size else Selection(200, 0, 0)


def parse_date(text: bytes) -> int | None:
    """Read an HTTP date as seconds since the epoch; None for anything else."""
    if len(text) > _LONGEST_DATE:
        return None
    try:
        moment = parsedate_to_datetime(text.decode("ascii"))
        # The form of C's asctime() names no zone; in HTTP every time is UTC.
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


_FIRST_DATE: Final = -62_135_596_800  # the beginning of the year 1
_LAST_DATE: Final = 253_402_300_799  # the end of the year 9999


@lru_cache(maxsize=4096)  # many blobs were stored in the same second
def format_date(moment: int) -> bytes:
    """Write seconds since the epoch as an HTTP date (RFC 9110, 5.6.7): the nearest one for what that has no year for.

    The library's own takes four times as long, and every blob that is read for the first time needs one.
    """
    moment = min(max(moment, _FIRST_DATE), _LAST_DATE)
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(moment)
    numbers = (_DAYS[weekday], day, _MONTHS[month - 1], year, hour, minute, second)
    return b"%b, %02d %b %04d %02d:%02d:%02d GMT" % numbers
