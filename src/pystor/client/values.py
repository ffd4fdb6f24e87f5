"""What the client's verbs return."""

from __future__ import annotations

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
