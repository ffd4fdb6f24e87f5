"""The right to work on a queue that lies in a bucket, which knows no locks: one process of a machine has it."""

from __future__ import annotations

import hashlib
import os
import socket


class BucketTurn:
    """A name of the kernel that is held until it is closed, or until the process ends. It leaves no file behind."""

    def __init__(self, holder: socket.socket) -> None:
        """Take over a socket that is bound to the name."""
        self._holder = holder

    @classmethod
    def take(cls, name: str) -> BucketTurn | None:
        """Take the turn of that name; None if another process of this user on this machine has it."""
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            holder.bind(f"\0stor-{os.getuid()}-{hashlib.sha256(name.encode()).hexdigest()}")
        except OSError:
            holder.close()
            return None
        return cls(holder)

    def close(self) -> None:
        """Let others have it; twice is harmless."""
        self._holder.close()

    def __enter__(self) -> BucketTurn:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
