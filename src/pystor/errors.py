"""The exception tree.

Every error is raised once, where it is known, and turned into an HTTP status once, in `pystor.http.statuses`.
`str(error)` is one line for the person who made the request: it says what to do and names no path of the inside.

    StorError
    ├── MalformedDigest          the name asked for is no SHA-256
    ├── NotFound                 every storage answered that it has no such blob
    ├── Unavailable              some storage did not answer, so nobody knows; asking again may help
    ├── Unauthorized             no or wrong credentials
    ├── NoSpace                  no replica set has room for the blob
    ├── TooLarge                 the blob is over the limit, as declared or as received
    ├── DigestMismatch           the body is not the blob it was said to be
    ├── IncompleteBody           the body ended before its declared length
    ├── StalledBody              the body stood still for too long
    └── StorageError             a storage failed; carries what happened where, for operators
        └── StorageFull          ... for lack of bytes, inodes or quota
    ConfigError                  the configuration cannot be used; carries one line a problem
    NeighbourError               a service beside Stor does not answer as it should
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:  # commands that need no event loop load none
    import asyncio

_UNREADABLE: Final = frozenset({errno.EIO, errno.EUCLEAN, errno.ELOOP, errno.ENXIO})  # the last is a socket's
_DEAD: Final = frozenset({errno.ENODEV, errno.ENOTCONN, errno.ESHUTDOWN, errno.ESTALE, errno.ETIMEDOUT})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_OF_THE_PROCESS: Final = frozenset(
    {errno.EAGAIN, errno.EBADF, errno.ECANCELED, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)
_OF_A_NAME: Final = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.ENXIO,
        errno.EPERM,
        errno.EXDEV,
    }
)
"""What is wrong with one file or directory: it says nothing of the others."""

_ADVICE: Final = {
    os.strerror(errno.EACCES): "let Stor's user read and write there",
    os.strerror(errno.EPERM): "let Stor's user read and write there",
    os.strerror(errno.ENOENT): "make the directory, or mount the disk",
    os.strerror(errno.ENOTDIR): "move away what is in the place of a directory",
    os.strerror(errno.EISDIR): "move away the directory that is in the place of a file",
    os.strerror(errno.ELOOP): "mend the symbolic link",
    os.strerror(errno.ENOTCONN): "mount it again",
    os.strerror(errno.ESTALE): "mount it again",
    os.strerror(errno.EROFS): "look at the kernel's log, check the filesystem, and mount it again",
    os.strerror(errno.EIO): "look at the kernel's log, and replace the disk",
}
"""By what the system says of a storage, what to do."""


def advised(reason: str, otherwise: str = "look at the kernel's log") -> str:
    """Add what to do to why a storage failed, unless it says that; `otherwise` is for what nobody foresaw."""
    return reason if ": " in reason else f"{reason}: {_ADVICE.get(reason, otherwise)}"


class StorError(Exception):
    """Anything that Stor says no with."""


class MalformedDigest(StorError):
    """The name asked for is no SHA-256."""

    def __init__(self, text: str) -> None:
        super().__init__(text)  # of which it is made again in another process
        self.text = text

    def __str__(self) -> str:
        return f"Given hash '{self.text}' isn't SHA256"


class NotFound(StorError):
    """Every storage answered that it has no such blob."""

    def __init__(self, name: str) -> None:
        super().__init__(f"File '{name}' not found")


class Unavailable(StorError):
    """A storage did not answer, so it is not known whether the blob exists."""

    def __init__(self, text: str, copied: int = 0) -> None:
        super().__init__(text)
        self.copied = copied
        """Bytes that were copied to the storages that did answer."""


class Unauthorized(StorError):
    """No or wrong credentials."""

    def __init__(self) -> None:
        super().__init__("Authentication required!")


class NoSpace(StorError):
    """No replica set has room for the blob."""


class TooLarge(StorError):
    """The blob is over `max_blob_size`, as declared or as received."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The blob is larger than the limit of {limit} bytes; raise max_blob_size to store it")


class DigestMismatch(StorError):
    """The body is not the blob it was said to be."""

    def __init__(self, real: str, given: str) -> None:
        super().__init__(f"Content sha256 {real} doesn't match given sha256 {given}")
        self.real = real


class IncompleteBody(StorError):
    """The body ended before its declared length; nothing was stored."""


class StalledBody(StorError):
    """The body stood still for longer than `upload_idle_timeout`; nothing was stored."""


class StorageError(StorError):
    """A storage failed.

    `storage` (its root), `operation` and `reason` are for operators; the text for the client names none of them.
    """

    text: ClassVar = "A storage failed; nothing was acknowledged, try again"

    def __init__(
        self, storage: str, operation: str, reason: str, *, unreadable: bool = False, dead: bool = False
    ) -> None:
        super().__init__(self.text)
        self.unwritable = False
        """Whether the storage is taken to be out for writes, whatever it does for reads."""
        self.refused = False
        """Whether it is this one blob that the storage does not take, as far as can be told, and goes on otherwise."""
        self.dead = dead
        """Whether the storage as a whole is taken to have failed."""
        self.unreadable = unreadable
        """Whether it is this one replica that cannot be read, as far as can be told."""
        self.sequel: asyncio.Future[StorageError] | None = None
        """What an operation on one replica that was late fails with in the end, if it does."""
        self.storage = storage
        self.operation = operation
        self.reason = reason

    @classmethod
    def from_os(
        cls, storage: str, operation: str, error: OSError, *, writing: bool = False, whole: bool = False
    ) -> StorageError:
        """Translate what the operating system said, once; a lack of room becomes `StorageFull`.

        `writing`: what was to be written may be lost, so that the storage takes no more until a probe has seen it well;
        not if it is one name that is refused, unless what is refused is a matter of the `whole` storage.
        """
        full = error.errno in _FULL
        elsewhere = _OF_THE_PROCESS if whole else _OF_THE_PROCESS | _OF_A_NAME
        failure = (StorageFull if full else StorageError)(
            storage,
            operation,
            error.strerror or str(error),
            unreadable=error.errno in _UNREADABLE,
            dead=error.errno in _DEAD,
        )
        failure.unwritable = writing and not full and error.errno not in elsewhere
        return failure

    def describe(self) -> str:
        """One line for operators: which storage, what was tried, what went wrong."""
        return f"{self.storage}: {self.operation}: {self.reason}"

    def advise(self) -> str:
        """Tell the same, and what to do."""
        return f"{self.storage}: {self.operation}: {advised(self.reason)}"


@contextmanager
def translated(storage: str, operation: str) -> Iterator[None]:
    """Raise what the operating system says within the block as `StorageError.from_os` does."""
    try:
        yield
    except OSError as error:
        raise StorageError.from_os(storage, operation, error) from error


class StorageFull(StorageError):
    """A storage has no bytes, inodes or quota left."""

    text = "No room is left on a storage; nothing was acknowledged; add storages or free some"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds one line for each thing to mend."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class NeighbourError(Exception):
    """A service beside Stor does not answer as it should; the text says what is wrong and what to do, in one line."""
