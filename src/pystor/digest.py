"""The digest: the SHA-256 that names a blob, parsed once at the door and a value from then on."""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from pystor.errors import MalformedDigest

HASHED_AT_ONCE: Final = 64 << 10
"""Bytes that are hashed in less time than it takes to hand them to a thread."""


class Digest:
    """A SHA-256. Equal digests name equal bytes; the hexadecimal form is kept in lower case."""

    __slots__ = ("_path", "hex")

    hex: Final[str]

    def __init__(self, lower_hex: str) -> None:
        """Take 64 lower-case hexadecimal digits that are known to be good; others come through `parse`."""
        self.hex = lower_hex
        self._path = ""

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read 64 hexadecimal digits in either case; anything else raises `MalformedDigest`."""
        try:
            size = len(bytes.fromhex(text))  # quicker than an expression; it would let spaces pass
        except ValueError:
            raise MalformedDigest(text) from None
        if size != 32 or len(text) != 64:
            raise MalformedDigest(text)
        return cls(text.lower())

    @classmethod
    def of(cls, content: bytes | memoryview) -> Digest:
        """Compute the digest of bytes that are in memory."""
        return cls(hashlib.sha256(content).hexdigest())

    @property
    def path(self) -> str:
        """Where a replica lies below its storage's root: `AA/BB/CC/<64 UPPERCASE HEX>.dat`."""
        if not self._path:
            name = self.hex.upper()
            self._path = f"{name[:2]}/{name[2:4]}/{name[4:6]}/{name}.dat"
        return self._path

    @property
    def leaf(self) -> str:
        """The directory of that replica, `AA/BB/CC`."""
        return self.path[:8]

    @property
    def key(self) -> str:
        """What a blob is called in a bucket: `aa/bb/cc/<64 lowercase hex>`."""
        name = self.hex
        return f"{name[:2]}/{name[2:4]}/{name[4:6]}/{name}"

    @property
    def base64(self) -> str:
        """The 32 bytes in base64, as `Repr-Digest` of RFC 9530 wants them."""
        return binascii.b2a_base64(bytes.fromhex(self.hex), newline=False).decode("ascii")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and self.hex == other.hex

    def __hash__(self) -> int:
        return hash(self.hex)

    def __repr__(self) -> str:
        return f"Digest({self.hex})"


def digests_in(names: Iterable[str]) -> Iterator[Digest]:
    """Parse those of the names that are digests; what else there is, is somebody else's."""
    for name in names:
        with suppress(MalformedDigest):
            yield Digest.parse(name)
