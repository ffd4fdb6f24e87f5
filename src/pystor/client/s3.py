"""A bucket that is read before the servers, without credentials: where a blob lies in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pystor.client.servers import Server, check_text
from pystor.digest import Digest

TEMPLATE: Final = "{{.FirstShaByte}}/{{.SecondShaByte}}/{{.ThirdShaByte}}/{{.Sha}}"

_FIELD: Final = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_FIELDS: Final = {
    ".Sha": slice(0, 64),
    ".FirstShaByte": slice(0, 2),
    ".SecondShaByte": slice(2, 4),
    ".ThirdShaByte": slice(4, 6),
}


@dataclass(frozen=True, slots=True)
class Bucket:
    """The URL of a bucket and the template of its keys, with the four fields of the original's; all in lower case.

    Raises `ValueError` for an unknown field, for what is no URL, and for a URL with a user in it: the bucket is read
    without credentials.
    """

    url: str
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        if "@" in self.url:
            raise ValueError("its URL names a user; it is read without credentials, so it has to be open to all")
        Server.parse(self.url)
        check_text("S3 template", self.template)
        unknown = [name for name in _FIELD.findall(self.template) if name not in _FIELDS]
        if unknown:
            raise ValueError(f"the S3 template has {unknown[0]!r}; there are {', '.join(_FIELDS)}")

    def locate(self, digest: Digest) -> str:
        """Return the URL of a blob."""
        key = _FIELD.sub(lambda match: digest.hex[_FIELDS[match[1]]], self.template)
        return f"{self.url.rstrip('/')}/{key}"
