"""What the client's verbs return."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pystor.digest import Digest


class Blob(NamedTuple):
    """A blob as a server describes it, or as it was downloaded. `modified` is seconds since 1970, if it was told."""

    digest: Digest
    size: int
    modified: float | None
    server: str


class Stored(NamedTuple):
    """A blob that a server has now. `new` is whether this upload brought it; `paths` are those of its copies."""

    digest: Digest
    size: int
    new: bool
    server: str
    paths: tuple[str, ...] = ()


class Status(NamedTuple):
    """How a server says that it is. `storages` are the rows of its `/status`, if it tells them."""

    server: str
    ok: bool
    text: str
    version: str = ""
    storages: tuple[Mapping[str, Any], ...] = ()


def status_of(server: str, code: int, body: bytes) -> Status:
    """Read what a server answered for its status, as JSON or as text; a page for people is none."""
    try:
        told = json.loads(body)
        rows = tuple(dict(row) for row in told["storages"])
        return Status(server, code == 200, str(told["status"]), str(told["version"]), rows)
    except (ValueError, KeyError, TypeError, RecursionError):
        said = body.decode(errors="replace").strip()[:300]
    if not said.startswith("<"):
        return Status(server, code == 200, said or f"it answered {code}")
    return Status(server, False, f"the answer is no answer of Stor's: it is a page, with status {code}")
