"""Heads of requests that need no parser: a client sends the same header fields again and again.

What stands behind the target of a GET or HEAD ("HTTP/1.1", the fields, the empty line) is parsed once and remembered;
the next request that has the same bytes there is the same but for its target.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeAlias

from pystor.http.messages import Field

_TARGET: Final = 65
"""Bytes of a slash and a digest."""
_MOST: Final = 256
_LONGEST: Final = 1024
_VERSION: Final = b" HTTP/1.1\r\n"
_END: Final = b"\r\n\r\n"


Head: TypeAlias = tuple[bytes, bytes, list[Field]]
"""Method, target and fields of a request without a body, after which the connection goes on."""


class Heads:
    """The fields of a few hundred heads, by their bytes."""

    def __init__(self) -> None:
        self._known: Final[OrderedDict[bytes, list[Field]]] = OrderedDict()

    def find(self, data: bytes) -> Head | None:
        """Recognise a whole request, and nothing more; None for the parser."""
        method = b"GET" if data.startswith(b"GET /") else b"HEAD" if data.startswith(b"HEAD /") else b""
        begin = len(method) + 1
        end = begin + _TARGET
        fields = self._known.get(data[end:])
        if fields is None:
            return None
        target = data[begin:end]
        return (method, target, fields) if method and target[1:].isalnum() else None

    def learn(self, data: bytes, head: Head) -> None:
        """Remember a request without a body that was parsed, if there is nothing else in `data`."""
        method, target, fields = head
        before = b"%b %b" % (method, target)
        rest = data[len(before) :]
        whole = data.startswith(before + _VERSION) and data.find(_END) == len(data) - len(_END)
        if whole and len(target) == _TARGET and len(rest) <= _LONGEST:
            if len(self._known) >= _MOST:
                self._known.popitem(last=False)
            self._known[rest] = fields
