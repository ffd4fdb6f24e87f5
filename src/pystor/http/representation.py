"""What is told of a blob beside its bytes: the part that is wanted, and the header fields."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Protocol

from pystor.digest import Digest
from pystor.http.conditions import Selection, format_date, select
from pystor.http.messages import Field, Response, encode_fields, text

_TYPE: Final[Field] = (b"content-type", b"application/octet-stream")
_FIXED_FIELDS: Final[tuple[Field, ...]] = (
    (b"accept-ranges", b"bytes"),
    (b"cache-control", b"public, max-age=31536000, immutable"),
    (b"x-content-type-options", b"nosniff"),
)

_TYPE_LINE: Final = encode_fields((_TYPE,))
_WHOLE: Final = (
    b'etag: "%b"\r\nlast-modified: %b\r\nrepr-digest: sha-256=:%b:\r\n'
    + encode_fields(_FIXED_FIELDS)
    + _TYPE_LINE
    + b"content-length: %d\r\n"
)


class Dated(Protocol):
    """A replica, as far as it is told of."""

    @property
    def size(self) -> int:
        """How many bytes it has."""
        ...

    @property
    def modified(self) -> int:
        """When it was stored, in seconds since the epoch."""
        ...


def select_of(replica: Dated, digest: Digest, method: str, headers: Mapping[bytes, bytes]) -> Selection:
    """Choose what of a replica is answered to a GET or HEAD with these header fields."""
    return select(headers, size=replica.size, etag=_etag(digest), modified=replica.modified, ranges=method == "GET")


def headers_of(replica: Dated, digest: Digest, selection: Selection) -> tuple[Field, ...]:
    """Make the header fields of an answer."""
    return _make(digest, replica.size, replica.modified, selection)


def head_of(replica: Dated, digest: Digest) -> bytes:
    """Make the same fields of an answer with the whole blob as they are written, in a fifth of the time."""
    name, date = digest.hex.encode("ascii"), format_date(replica.modified)
    return _WHOLE % (name, date, digest.base64.encode("ascii"), replica.size)


def head_of_part(whole: bytes, size: int, selection: Selection) -> bytes:
    """Make those of an answer with less than the whole blob, or without any of it, from those with the whole."""
    if selection.status == 200:
        return whole
    common = whole[: whole.rindex(_TYPE_LINE)]
    if selection.status == 304:
        return common
    start, stop = selection.start, selection.stop
    return b"%bcontent-length: %d\r\ncontent-range: bytes %d-%d/%d\r\n" % (
        common + _TYPE_LINE,
        stop - start,
        start,
        stop - 1,
        size,
    )


def past_the_end(size: int) -> Response:
    """Answer a range that begins behind the last byte."""
    return text(
        416,
        f"The range begins past the end of the file, which has {size} bytes",
        (b"content-range", b"bytes */%d" % size),
    )


def _etag(digest: Digest) -> bytes:
    return b'"%b"' % digest.hex.encode("ascii")


@lru_cache(maxsize=1024)  # a hot blob is asked for in the same way again and again
def _make(digest: Digest, size: int, modified: int, selection: Selection) -> tuple[Field, ...]:
    fields: list[Field] = [
        (b"etag", _etag(digest)),
        (b"last-modified", format_date(modified)),
        (b"repr-digest", b"sha-256=:%b:" % digest.base64.encode("ascii")),
        *_FIXED_FIELDS,
    ]
    if selection.status != 304:
        fields.append(_TYPE)
        fields.append((b"content-length", b"%d" % (selection.stop - selection.start)))
    if selection.status == 206:
        fields.append((b"content-range", b"bytes %d-%d/%d" % (selection.start, selection.stop - 1, size)))
    return tuple(fields)
