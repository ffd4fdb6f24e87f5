"""A server that says what a test wants, to requests that real clients make."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeAlias


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    body: bytes
    number: int
    """How many came before it."""
    at: float
    """When it came, in seconds of the monotonic clock."""


Script: TypeAlias = Callable[[Asked], bytes]
"""Gives the answer, head and body."""


def answer(status: int, body: bytes = b"", *fields: str) -> bytes:
    """Write an answer; `fields` are lines such as `Location: /there`."""
    head = "\r\n".join([f"HTTP/1.1 {status} So", f"Content-Length: {len(body)}", *fields, "", ""])
    return head.encode() + body


def busy(retry_after: int | None = None, status: int = 503) -> bytes:
    """Write an answer that says that it is not possible now."""
    return answer(status, b"Busy\n", *([] if retry_after is None else [f"Retry-After: {retry_after}"]))


class Scripted:
    """Serves while its block lasts; `asked` are the requests so far. Bodies are agreed to (100-continue) and read."""

    def __init__(self, script: Script, *, keeps: bool = True, certified: tuple[Path, Path] | None = None) -> None:
        """`keeps` connections open, also when an answer is shorter than its head says; or closes them.

        If it is `certified`, by a certificate and its key, it speaks HTTPS.
        """
        self.asked: Final[list[Asked]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(handler) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
                asked = Asked(handler.command, handler.path, body, len(self.asked), time.monotonic())
                self.asked.append(asked)
                said = script(asked)
                handler.wfile.write(said)
                handler.close_connection = handler.close_connection or not (said and keeps)

            do_GET = do_HEAD = do_POST = serve  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certified is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certified)
            # The handshake is for the thread that serves the connection.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url: Final = f"{'http' if certified is None else 'https'}://127.0.0.1:{self._server.server_port}"

    @property
    def pauses(self) -> list[float]:
        """The seconds between the requests."""
        return [after.at - before.at for before, after in pairwise(self.asked)]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
