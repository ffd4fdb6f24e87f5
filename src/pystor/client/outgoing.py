"""The body of a request, as it is asked for piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Final

from pystor.client.errors import BadContent


class Outgoing:
    """`size` bytes of a file from where it stands; `observe` is told how many were sent, as it goes."""

    def __init__(self, file: IO[bytes], size: int, observe: Callable[[int], None]) -> None:
        self.size: Final = size
        self.error: Exception | None = None
        """Why there is no more of it."""
        self._file: Final = file
        self._start: Final = file.tell()
        self._observe: Final = observe

    def read(self, most: int) -> bytes | None:
        """Return the next piece, nothing at the end; None when there is none, and `error` says why.

        That is `BadContent` when the file has become shorter.
        """
        try:
            return self._next(most)
        except Exception as error:  # noqa: BLE001  it goes through a library that would print it, and tell of another
            self.error = error
            return None

    def _next(self, most: int) -> bytes:
        sent = self._file.tell() - self._start
        self._observe(sent)
        piece = self._file.read(min(most, self.size - sent))
        if not piece and sent < self.size:
            raise BadContent(f"it ended after {sent} of {self.size} bytes")
        return piece

    def seek(self, offset: int) -> None:
        """Go to an offset: the body is sent again."""
        self._file.seek(self._start + offset)
