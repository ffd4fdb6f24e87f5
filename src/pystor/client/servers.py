"""The servers: their addresses without passwords in them, and who is asked first for a blob."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple, Self
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from pystor.digest import Digest

_ESCAPED: Final = "and / ? # in a password are written %2F %3F %23"


class Server(NamedTuple):
    """One server: its URL without credentials, and these beside it, where no text of it shows them."""

    url: str
    user: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, text: str, user: str | None = None, password: str | None = None) -> Self:
        """Read `http[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH]`; raises `ValueError` with one line, without a password.

        What the URL says of a user wins over the two arguments.
        """
        for what, said in (("URL", text), ("user", user), ("password", password)):
            check_text(what, said or "")
        parts, port = _split(text)
        if parts.scheme not in {"http", "https"} or not parts.hostname or " " in parts.hostname:
            raise ValueError(f"{parts.scheme or 'this'} is no server's URL; it has the form http://HOST:PORT")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        place = host if port is None else f"{host}:{port}"
        url = urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))
        if parts.username is None:
            return cls(url, user, password)
        given = None if parts.password is None else unquote(parts.password)
        return cls(url, unquote(parts.username), password if given is None else given)

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"Server({self.url!r})"


def check_text(what: str, text: str) -> None:
    """Raise `ValueError` for what cannot be sent: the system hands on arguments and variables that are no text, too."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the {what} is no text in UTF-8") from None


def _split(text: str) -> tuple[SplitResult, int | None]:
    """Take a URL apart, and tell its port. What would end the host within a password makes another host of it."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:  # whose text has what stands in the place of the port
        raise ValueError(f"this is no server's URL; it has the form http://HOST:PORT, {_ESCAPED}") from None
    if parts.query or parts.fragment or "@" in parts.path:
        raise ValueError(f"a server's URL ends with its path, {_ESCAPED}")
    return parts, port


def ranked(servers: Sequence[Server], digest: Digest) -> list[Server]:
    """Order the servers for a blob (rendezvous hashing): the same for all clients, and spread over the servers.

    A server that comes or goes changes the first choice of its own blobs only.
    """
    if len(servers) == 1:
        return list(servers)
    return sorted(servers, key=lambda server: hashlib.sha256(f"{server.url} {digest.hex}".encode()).digest())
