"""One table from errors to statuses."""

from __future__ import annotations

from typing import Final

from pystor import errors
from pystor.errors import StorError
from pystor.http.auth import CHALLENGE
from pystor.http.messages import RETRY, Field, Response, text

_CLOSE: Final[Field] = (b"connection", b"close")

STATUSES: Final[dict[type[StorError], tuple[int, tuple[Field, ...]]]] = {
    errors.MalformedDigest: (404, ()),
    errors.NotFound: (404, ()),
    errors.Unavailable: (503, (RETRY,)),
    errors.Unauthorized: (401, (CHALLENGE,)),
    errors.NoSpace: (507, ()),
    errors.TooLarge: (413, ()),
    errors.DigestMismatch: (412, ()),
    errors.IncompleteBody: (400, (_CLOSE,)),
    errors.StalledBody: (408, (_CLOSE,)),
    errors.StorageError: (503, (RETRY,)),
    errors.StorageFull: (507, ()),
}


def response_for(error: StorError) -> Response:
    """Answer an error; one that is not in the table is answered as the nearest above it in the tree."""
    kind = next(kind for kind in type(error).__mro__ if kind in STATUSES)
    status, headers = STATUSES[kind]
    return text(status, str(error), *headers)


def malformed_upload(error: errors.MalformedDigest) -> Response:
    """Answer an upload under a malformed name: the original has another status and wording for it than for a GET."""
    return text(412, f"Given hash '{error.text}' isn't sha256")


def internal_error() -> Response:
    """Answer what nobody foresaw."""
    return text(500, "Something went wrong inside; the log of the service says what")


def method_not_allowed(allowed: bytes) -> Response:
    """Answer a method that a resource does not have."""
    return text(405, f"This method is not allowed here; use one of {allowed.decode()}", (b"allow", allowed))


def options(allowed: bytes) -> Response:
    """Answer what a resource can do."""
    return Response(204, ((b"allow", allowed),))
