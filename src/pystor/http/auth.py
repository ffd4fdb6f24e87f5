"""Who may store."""

from __future__ import annotations

import binascii
import hmac
from collections.abc import Mapping
from typing import Final

from pystor.errors import Unauthorized

CHALLENGE: Final = (b"www-authenticate", b'Basic realm="Stor", charset="UTF-8"')


class Guard:
    """Knows the one writer's credentials."""

    def __init__(self, credentials: str | None) -> None:
        """Take `user:password`; None admits nobody."""
        self._expected: Final = None if credentials is None else credentials.encode()

    def admit(self, headers: Mapping[bytes, bytes]) -> None:
        """Let a request with the writer's Basic credentials pass; raises `Unauthorized` for any other."""
        scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
        try:
            given = binascii.a2b_base64(token.strip(), strict_mode=True) if scheme.lower() == b"basic" else b""
        except binascii.Error:
            given = b""
        if self._expected is None or not hmac.compare_digest(given, self._expected):
            raise Unauthorized
