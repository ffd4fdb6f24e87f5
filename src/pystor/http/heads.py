"""Heads of requests that need no parser: a client sends the same header fields again and again.

What stands behind the target ("HTTP/1.1", the fields, the empty line) is parsed once and remembered; the next request
that has the same bytes there is the same but for its target, and for its body if it has one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias, TypeVar

from pystor.http.messages import Conditions, Field, conditions_of, gather_fields

_T = TypeVar("_T")

_TARGET: Final = 65
"""Bytes of a slash and a digest."""
_MOST: Final = 256
_LONGEST: Final = 1024
_VERSION: Final = b" HTTP/1.1\r\n"
_END: Final = b"\r\n\r\n"


Head: TypeAlias = tuple[bytes, bytes, list[Field]]
"""Method, target and fields of a request after which the connection goes on."""

Asked: TypeAlias = tuple[bytes, bytes, Conditions]
"""Method, target and conditions of a request without a body, after which the connection goes on."""


class Sent(NamedTuple):
    """A request with a body that came in one piece, after which the connection goes on."""

    method: bytes
    target: bytes
    headers: Mapping[bytes, bytes]
    body: bytes


class Heads:
    """What a few hundred heads say, by their bytes."""

    def __init__(self) -> None:
        self._known: Final[OrderedDict[bytes, Conditions]] = OrderedDict()
        self._sending: Final[OrderedDict[bytes, tuple[Mapping[bytes, bytes], int]]] = OrderedDict()

    def find(self, data: bytes) -> Asked | None:
        """Recognise a whole request, and nothing more; None for the parser."""
        method = b"GET" if data.startswith(b"GET /") else b"HEAD" if data.startswith(b"HEAD /") else b""
        begin = len(method) + 1
        end = begin + _TARGET
        conditions = self._known.get(data[end:])
        if conditions is None:
            return None
        target = data[begin:end]
        return (method, target, conditions) if method and target[1:].isalnum() else None

    def find_sent(self, data: bytes) -> Sent | None:
        """Recognise a whole request with its body, and nothing more; None for the parser."""
        method = b"POST" if data.startswith(b"POST /") else b"PUT" if data.startswith(b"PUT /") else b""
        begin = len(method) + 1
        end = begin + _TARGET
        body = data.find(_END, end, end + _LONGEST) + len(_END)
        known = self._sending.get(data[end:body])
        if known is None:
            return None
        headers, size = known
        target = data[begin:end]
        whole = len(data) == body + size and method and target[1:].isalnum()
        return Sent(method, target, headers, data[body:]) if whole else None

    def learn(self, data: bytes, head: Head, size: int | None = None) -> None:
        """Remember a request that was parsed, if there is nothing else in `data`; `size` is that of its body.

        Whoever sends the same bytes is taken to have sent the same fields, a password among them: so these must be
        what the bytes spell.
        """
        method, target, fields = head
        before = b"%b %b" % (method, target)
        end = data.find(_END) + len(_END)
        rest = data[len(before) : end]
        whole = data.startswith(before + _VERSION) and len(data) == end + (size or 0)
        if whole and len(target) == _TARGET and len(rest) <= _LONGEST and _fields_in(rest) == fields:
            if size is None:
                _add(self._known, rest, conditions_of(fields))
            else:
                _add(self._sending, rest, (gather_fields(fields), size))


def _fields_in(rest: bytes) -> list[Field]:
    """Read the fields between the line of the target and the empty line."""
    parts = [line.partition(b":") for line in rest.split(b"\r\n")[1:-2]]
    return [(name.lower(), value.strip(b" \t")) for name, _, value in parts]


def _add(known: OrderedDict[bytes, _T], head: bytes, what: _T) -> None:
    if len(known) >= _MOST:
        known.popitem(last=False)
    known[head] = what
