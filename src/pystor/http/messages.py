"""Requests and responses as values, whatever server carries them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from functools import lru_cache
from typing import Final, NamedTuple, Protocol, TypeAlias

from pystor.digest import Digest

Field: TypeAlias = tuple[bytes, bytes]
"""A header field: its name in lower case, and its value."""

METHODS: Final = b"GET, HEAD, POST, PUT, OPTIONS"
"""All that anything here can be asked by, as `Allow` spells it."""

RETRY: Final[Field] = (b"retry-after", b"5")
"""Asking again may help, in so many seconds."""

DIRECT: Final = "stor.http.response.direct"
"""An ASGI extension, and its event: the body goes on with what a `Source` sends by itself."""

Source: TypeAlias = Callable[[int], int]
"""Sends over a socket, by its descriptor, what the socket takes now, and tells how many bytes that were."""


Conditions: TypeAlias = Mapping[bytes, bytes]
"""The header fields of a request that asks for more than the whole of a blob; empty if it does not."""

CONDITIONAL: Final = frozenset({b"if-none-match", b"if-modified-since", b"range"})
"""The names of those that do."""


class Stream(Protocol):
    """A body that is produced piece by piece; closing it, at any point, gives back what it holds."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def send_directly(self, socket: int) -> int:
        """Send what comes next over a socket, as far as that takes no waiting; returns how many bytes, maybe none."""
        ...

    def pause(self) -> None:
        """Give back what can be had again: the client takes nothing for a while."""
        ...

    async def aclose(self) -> None:
        """Give back what is held."""
        ...


class RequestBody(Protocol):
    """The body of a request, as it comes or here already."""

    @property
    def received(self) -> int:
        """How many bytes of it have been taken, as yet."""
        ...

    def at_once(self) -> bytes | None:
        """Give the whole body if it is here, and no client waits to be asked for it; `pieces` give it all the same."""
        ...

    def pieces(self) -> AsyncIterator[bytes]:
        """Give the pieces as they come; raises `IncompleteBody` and `StalledBody`.

        A client that waits to be asked sends when the first piece is waited for.
        """
        ...


class Request(NamedTuple):
    """What a client asks. Names of header fields are in lower case."""

    method: str
    path: str
    """Percent-decoded, beginning with a slash."""
    headers: Mapping[bytes, bytes]
    body: RequestBody

    @property
    def declared(self) -> int | None:
        """How many bytes the body is said to have."""
        length = self.headers.get(b"content-length")
        return None if length is None else int(length)

    def accepts(self, kind: bytes) -> bool:
        """Tell whether the client asks for a media type by its name."""
        return kind in self.headers.get(b"accept", b"").lower()


class Origin(NamedTuple):
    """Where the bytes of a response come from, for those who count them."""

    digest: Digest
    storage: str
    tier: str


class Response(NamedTuple):
    """What is answered: `content-length` is among the headers whenever there is a body."""

    status: int
    headers: tuple[Field, ...] = ()
    body: bytes | memoryview | Stream = b""
    origin: Origin | None = None
    encoded: bytes | None = None
    """The headers as they are written, in the place of `headers`, for what is answered often."""


def gather_fields(fields: Collection[Field]) -> dict[bytes, bytes]:
    """Make a mapping of header fields; repeated ones are joined with a comma (RFC 9110, 5.3)."""
    gathered = dict(fields)
    if len(gathered) == len(fields):
        return gathered
    values: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    return {name: b", ".join(each) for name, each in values.items()}


def conditions_of(fields: Collection[Field]) -> Conditions:
    """Tell whether header fields ask for more than the whole of a blob, and what."""
    gathered = gather_fields(fields)
    return {} if CONDITIONAL.isdisjoint(gathered) else gathered


@lru_cache(maxsize=1024)
def encode_fields(fields: tuple[Field, ...]) -> bytes:
    """Write header fields down."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def text(status: int, line: str, *headers: Field) -> Response:
    """Answer one line of plain text; what would not be one line is escaped."""
    if not line.isprintable():
        line = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)
    return typed(status, b"text/plain; charset=utf-8", line.encode("utf-8", "backslashreplace"), *headers)


def as_json(status: int, content: object, *headers: Field) -> Response:
    """Answer a value as JSON."""
    return typed(status, b"application/json", json.dumps(content).encode(), *headers)


def typed(status: int, media_type: bytes, body: bytes, *headers: Field) -> Response:
    """Answer bytes of a media type."""
    return Response(status, ((b"content-type", media_type), (b"content-length", b"%d" % len(body)), *headers), body)


def bytes_of(response: Response) -> bytes | memoryview:
    """The body of a response that does not stream."""
    body = response.body
    if not isinstance(body, (bytes, memoryview)):  # a union would be made anew for each answer
        raise TypeError("only a body of bytes can be sent at once")
    return body
