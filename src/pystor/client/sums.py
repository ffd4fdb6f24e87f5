"""Lines of `sha256sum`: a digest, two spaces, a path; so that `sha256sum -c` reads what is printed here."""

from __future__ import annotations

import os
import re
from typing import Final

from pystor.digest import Digest

_LINE: Final = re.compile(rb"(\\?)([0-9A-Fa-f]{64}) [ *](.+)", re.DOTALL)
_ESCAPED: Final = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}


def line(digest: str, path: str) -> str:
    """Write a line, without its end; a path with a backslash or a line break in it is escaped as `sha256sum` does.

    What is no text in a path is kept as `os.fsdecode` has it.
    """
    if not ("\\" in path or "\n" in path or "\r" in path):
        return f"{digest}  {path}"
    for escaped, plain in _ESCAPED.items():
        path = path.replace(plain.decode(), escaped.decode())
    return f"\\{digest}  {path}"


def parse(text: bytes) -> tuple[Digest, str] | None:
    """Read a line, without its end; None when it is no such line."""
    match = _LINE.fullmatch(text)
    if match is None:
        return None
    raw = match[3]
    if match[1]:
        raw = re.sub(rb"\\[\\nr]", lambda found: _ESCAPED[found[0]], raw)
    return Digest(match[2].decode().lower()), os.fsdecode(raw)
