"""What is told of a blob beside its bytes: the part that is wanted, and the header fields."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from pystor.blob import Replica
from pystor.digest import Digest
from pystor.http.conditions import Selection, format_date, select
from pystor.http.messages import Field, Origin, Response, text

_FIXED_FIELDS: Final[tuple[Field, ...]] = (
    (b"accept-ranges", b"bytes"),
    (b"cache-control", b"public, max-age=31536000, immutable"),
    (b"x-content-type-options", b"nosniff"),
)


def select_of(replica: Replica, digest: Digest, method: str, headers: Mapping[bytes, bytes]) -> Selection:
    """Choose what of a replica is answered to a GET or HEAD with these header fields."""
    return select(headers, size=replica.size, etag=_etag(digest), modified=replica.modified, ranges=method == "GET")


def headers_of(replica: Replica, digest: Digest, selection: Selection) -> tuple[Field, ...]:
    """Make the header fields of an answer."""
    return _make(digest, replica.size, replica.modified, selection)


def past_the_end(size: int, origin: Origin) -> Response:
    """Answer a range that begins behind the last byte."""
    return text(
        416,
        f"The range begins past the end of the file, which has {size} bytes",
        (b"content-range", b"bytes */%d" % size),
    )._replace(origin=origin)


def _etag(digest: Digest) -> bytes:
    return b'"%b"' % digest.hex.encode("ascii")


@lru_cache(maxsize=1024)  # a hot blob is answered with the same fields again and again
def _make(digest: Digest, size: int, modified: int, selection: Selection) -> tuple[Field, ...]:
    fields: list[Field] = [
        (b"etag", _etag(digest)),
        (b"last-modified", format_date(modified)),
        (b"repr-digest", b"sha-256=:%b:" % digest.base64.encode("ascii")),
        *_FIXED_FIELDS,
    ]
    if selection.status != 304:
        fields.append((b"content-type", b"application/octet-stream"))
        fields.append((b"content-length", b"%d" % (selection.stop - selection.start)))
    if selection.status == 206:
        fields.append((b"content-range", b"bytes %d-%d/%d" % (selection.start, selection.stop - 1, size)))
    return tuple(fields)
