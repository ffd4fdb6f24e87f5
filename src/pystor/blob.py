"""What the rooms say to each other about blobs and the storages that keep them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from pystor.digest import Digest

READ_SIZE: Final = 1 << 20
"""Bytes taken at once when a whole replica is read, to hash or to copy it."""

Fingerprint: TypeAlias = tuple[int, int, int, int, int]
"""Device, inode, size, mtime and ctime, the times in nanoseconds; in a bucket, numbers that do as well.

While these stay the same, the bytes do.
"""

QueueName: TypeAlias = Literal["mirror", "repair"]
"""A durable list of digests that a storage keeps, for work that is to be done later."""


@dataclass(frozen=True, slots=True)
class Space:
    """Room of a storage, in bytes; `free` is what an ordinary user may still write."""

    total: int
    free: int


UNKNOWN_ROOM: Final = Space(total=1 << 60, free=1 << 60)
"""That of a storage that cannot be measured, and only tells that it is full when it refuses a write."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a storage that is well may take. The defaults are those of a disk."""

    answer: float = 2.0
    """Seconds in which it opens a replica, or reads a piece of one."""
    rate: float = 5e6
    """Bytes per second of a replica that is read as a whole."""

    def whole(self, size: int) -> float:
        """Tell the seconds in which it reads a replica of so many bytes."""
        return self.answer + size / self.rate


Again: TypeAlias = Callable[[int, memoryview], bool]
"""Reads once more of a replica that was closed: fills the room, which may be empty, with its bytes from an offset on.

False if the replica is not the same any more, if it ends before the room is full, or if that takes waiting: then it has
to be looked for anew.
"""


@dataclass(slots=True, eq=False)
class Filesystem:
    """A filesystem that can be synced as a whole, by a descriptor that is open on it.

    A sync by this descriptor tells of every write that failed since it was opened, but only once.
    """

    device: int
    fd: int
    since: float
    """When the descriptor had been opened, on the monotonic clock. Whoever relies on it has written later."""
    failure: OSError | None = None
    """What a sync by the descriptor has told, for all others who rely on it."""


def root_in(path: str, digest: Digest) -> str:
    """Tell the root of the storage from the path of a blob's replica in it."""
    return path.removesuffix(digest.path).removesuffix(digest.key).rstrip("/")


class Replica(AbstractContextManager["Replica"], Protocol):
    """The open copy of a blob in one storage: what was looked at when it was opened is what is read."""

    @property
    def storage(self) -> str:
        """The storage's root."""
        ...

    @property
    def path(self) -> str:
        """Where it lies, for operators."""
        ...

    @property
    def size(self) -> int:
        """Its length in bytes."""
        ...

    @property
    def modified(self) -> int:
        """When it was written, in seconds since the epoch."""
        ...

    @property
    def fingerprint(self) -> Fingerprint:
        """Numbers that change when its bytes do."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Read exactly `size` bytes; raises `StorageError` if that cannot be done."""
        ...

    def read_cached(self, offset: int, room: memoryview) -> bool:
        """Fill the room with the bytes from `offset` on; False if that takes waiting, or the replica ends."""
        ...

    def send_cached(self, socket: int, offset: int, size: int) -> int:
        """Send at most `size` bytes, at least 1, over a socket; returns how many were sent without any waiting."""
        ...

    @property
    def again(self) -> Again | None:
        """How to read of it once more after it was closed, without looking for it; None if there is no such way."""
        ...

    def pause(self) -> None:
        """Give back what was read ahead: nobody reads for a while. It can be read on as ever."""
        ...

    def close(self) -> None:
        """Give it back; twice is harmless."""
        ...


class Staged(Protocol):
    """A replica on its way: written where nobody sees it, published under its name, or gone without a trace.

    Every method but `discard` raises `StorageError`.
    """

    @property
    def timeout(self) -> float:
        """Seconds that each step may take, as things are now."""
        ...

    @property
    def filesystem(self) -> Filesystem | None:
        """What is to be synced as a whole to make it durable, before and after it gets its name; None: nothing is."""
        ...

    def write(self, data: bytes | bytearray | memoryview, piece: int = 0) -> None:
        """Append all of `data`. If others wait for the disk, `piece` is not 0, and so many bytes go there at a time."""
        ...

    @property
    def published(self) -> bool:
        """Whether it has its final name and nothing is under way with it, so that closing it takes no waiting."""
        ...

    def date(self, modified: int) -> None:
        """Set its time of modification, in nanoseconds since the epoch, if the storage can; after all writes."""
        ...

    def sync(self) -> None:
        """Put the bytes, which are all, on stable storage, unless that is left to a sync of the `filesystem`."""
        ...

    def set_aside(self, digest: Digest, bad: Fingerprint | None) -> None:
        """Keep what stands under the final name in quarantine, if it is the replica that was found `bad`.

        None: one that could not be opened. Anything else that stands there has replaced it since, and stays.
        """
        ...

    def publish(self, digest: Digest) -> None:
        """Give the replica its final name, durably unless that is left to a sync of the `filesystem`.

        What stands there is replaced atomically.
        """
        ...

    def discard(self) -> None:
        """Remove what was not published. Never raises."""
        ...

    def close(self) -> None:
        """Do the same as `discard`."""
        ...


class OpenStorage(Protocol):
    """A storage that is held open for several blobs that are written one after the other. For one thread.

    Every method raises `StorageError`.
    """

    def make_way(self, digest: Digest) -> bool:
        """Prepare a place for a new blob; False if something stands under its name, be it the blob or not."""
        ...

    def stage(self, size: int, *, shared: bool = False) -> Staged:
        """Begin a replica of `size` bytes; `shared` if a sync of the whole filesystem is to make its name durable."""
        ...


class Turn(AbstractContextManager["Turn"], Protocol):
    """The exclusive right to work on a queue, until it is closed."""

    def close(self) -> None:
        """Let others have it; twice is harmless."""
        ...


class Storage(Protocol):
    """One place that keeps one replica of each of its blobs. Synchronous; a `Bulkhead` makes it asynchronous.

    Every operation raises `StorageError` when the storage does not do it, `StorageFull` when for lack of room.
    """

    @property
    def root(self) -> str:
        """Its name for operators: a path, or a bucket's URL."""
        ...

    @property
    def writable(self) -> bool:
        """Whether it takes new blobs."""
        ...

    @property
    def local(self) -> bool:
        """Whether it lies on a disk of this machine, so that what the page cache has is read without a thread."""
        ...

    @property
    def timeouts(self) -> Timeouts:
        """How long it may take, or is taken to have failed."""
        ...

    def answers_since(self, began: float) -> bool:
        """Tell whether it has answered something that was asked after `began`, on the monotonic clock.

        Then an operation that is late says nothing of the storage as a whole. Always False where that does not follow.
        """
        ...

    def attach(self) -> object:
        """Find the storage in its place, and remember it."""
        ...

    def check(self) -> Space:
        """See that it is in its place, and measure its room in bytes."""
        ...

    def probe(self) -> None:
        """Write, read and remove something, to see whether the storage does what it should."""
        ...

    def left(self, space: Space) -> int:
        """Bytes that may be written before only the reserve is left."""
        ...

    def locate(self, digest: Digest) -> str:
        """Tell where the replica of a blob lies, or would."""
        ...

    def open(self, digest: Digest) -> Replica | None:
        """Open the replica of a blob; None only when this very storage has none."""
        ...

    def open_cached(self, digest: Digest) -> Replica | Literal[False] | None:
        """Open the replica as `open` does, but without waiting; False when that is not possible."""
        ...

    def open_own(self, digest: Digest) -> Replica | None:
        """Open the replica as `open` does, and see that it lies on this very storage: it counts as one of the n copies.

        That is neither through a symbolic link, nor in the mount point of a disk that is gone.
        """
        ...

    def open_own_cached(self, digest: Digest) -> Replica | Literal[False] | None:
        """Open the replica as `open_own` does, but without waiting; False when that is not possible."""
        ...

    def open_cached_path(self, path: bytes) -> Replica | Literal[False] | None:
        """Open the replica as `open_cached` does, by `Digest.path` as bytes, which is made once for many storages.

        Whether the storage is there is not looked at: None counts only if it `is_in_place` afterwards.
        """
        ...

    @property
    def watched(self) -> bool:
        """Whether a `Watch` would notice if another storage, or none, were put in its place."""
        ...

    def is_in_place(self) -> bool:
        """Tell without waiting whether the storage that was attached is still in its place."""
        ...

    def confirm(self, digest: Digest) -> None:
        """See that a replica which somebody has just stored is on stable storage."""
        ...

    @property
    def syncs(self) -> bool:
        """Whether what is written has to be synced to be on stable storage, and the configuration wants that."""
        ...

    @property
    def prompt(self) -> bool:
        """Whether small blobs are written and named without waiting for a disk: one thread does many in a row."""
        ...

    def open_for_writing(self) -> AbstractContextManager[OpenStorage]:
        """See that it is in its place, and hold it open for several blobs that are written one after the other."""
        ...

    def stage(self, size: int) -> Staged:
        """Begin a replica of `size` bytes; 0: nobody knows yet."""
        ...

    def sweep(self) -> int:
        """Remove what dead processes have left; returns how much there was."""
        ...

    def enqueue(self, queue: QueueName, digest: Digest) -> None:
        """Note a blob durably, for later."""
        ...

    def take_turn(self, queue: QueueName) -> Turn | None:
        """Keep all others, in all processes, from working on a queue; None if somebody does already."""
        ...

    def pending(self, queue: QueueName, most: int, beyond: int = 0) -> list[Digest]:
        """Tell the blobs that are noted, at most `most`, leaving out the first `beyond`, in an order that stays."""
        ...

    def dequeue(self, queue: QueueName, digest: Digest, noted_before: float) -> None:
        """Forget a blob, unless it was noted anew since a moment, in seconds since the epoch."""
        ...
