"""Certificates, and a server that shows one."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support import needs

_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=tests")


def certify(directory: Path, name: str = "IP:127.0.0.1", *, days: int = 2) -> tuple[Path, Path]:
    """Make a certificate that it signs itself, and its key; it is good for so many days, which may be less than none.

    Only those trust it who are told of it.
    """
    needs.tool("openssl")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    request, extensions = directory / "request.pem", directory / "extensions"
    extensions.write_text(f"subjectAltName={name}\nbasicConstraints=CA:FALSE\n")
    _openssl("req", "-new", *_KEY, "-keyout", str(key), "-out", str(request))
    signed = ("-signkey", str(key), "-days", str(days), "-extfile", str(extensions))
    _openssl("x509", "-req", "-in", str(request), *signed, "-out", str(certificate))
    return certificate, key


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)


@contextlib.contextmanager
def showing(certificate: Path, key: Path) -> Iterator[str]:
    """A server that speaks TLS and knows no method of HTTP; gives its endpoint."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()
