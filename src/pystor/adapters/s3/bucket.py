"""A bucket, or a part of one, that keeps one replica of each of its blobs."""

from __future__ import annotations

import secrets
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Literal

from pystor.adapters.s3.client import Client, Keys, RequestPolicy
from pystor.adapters.s3.replica import AT_ONCE, BucketReplica
from pystor.adapters.s3.staged import StagedObject
from pystor.adapters.s3.turn import BucketTurn
from pystor.address import BucketAddress
from pystor.blob import UNKNOWN_ROOM, QueueName, Space, Timeouts
from pystor.digest import Digest, digests_in
from pystor.errors import StorageError, StorageFull

_EMPTY_FOR: Final = 60.0  # seconds
_PROBE: Final = b"Stor was here\n"


class Bucket:
    """A storage whose replicas are objects. Every operation raises `StorageError` when the bucket does not do it."""

    def __init__(
        self,
        client: Client,
        prefix: str = "",
        *,
        spool: str | None = None,
        writable: bool = True,
        timeouts: Timeouts | None = None,
    ) -> None:
        """Make a storage of what a client reaches; `connect` makes the client too. Nothing is asked yet.

        `spool` is the directory in which uploads are collected, on a disk with room for those that come at the same
        time; None is that of temporary files.
        """
        self.root: Final = client.name
        self.writable: Final = writable
        self.timeouts: Final = RequestPolicy().timeouts if timeouts is None else timeouts
        self.local: Final = False
        self.watched: Final = False
        self._client: Final = client
        self._prefix: Final = f"{prefix.strip('/')}/" if prefix else ""
        self._spool: Final = spool
        # One for each process, since others may probe at the same time; what one probe leaves the next takes away.
        self._probed: Final = f"{self._prefix}.stor/probe/{secrets.token_hex(8)}"
        self._empty_until: Final[dict[QueueName, float]] = {}

    @classmethod
    def connect(
        cls,
        name: str,
        address: BucketAddress,
        keys: Keys | None,
        policy: RequestPolicy,
        *,
        spool: str | None = None,
        writable: bool = True,
    ) -> Bucket:
        """Describe a bucket that operators see as `name`; nothing is sent yet. To be done in the process that uses it.

        Without keys those of the environment are taken, or of the machine.
        """
        client = Client.connect(name, address, keys, policy)
        return cls(client, address.prefix, spool=spool, writable=writable, timeouts=policy.timeouts)

    def answers_since(self, began: float) -> bool:
        """Tell whether there was an answer to what was asked after `began`: each object is one for itself."""
        return self._client.answers_since(began)

    def attach(self) -> None:
        """See that the bucket is there."""
        self.check()

    def check(self) -> Space:
        """See that the bucket is there, and that the keys may read what it has and learn what it has not."""
        # As good as a listing, and cheaper: no such object is an answer, no such bucket and no access are failures.
        self._client.get(f"{self._prefix}.stor/check")
        return UNKNOWN_ROOM

    def probe(self) -> None:
        """Write, read and remove something, to see whether the bucket does what it should.

        One that does not, and reads all the same, fails as `unwritable`: it may be full, or the keys be for reading.
        """
        if not self.writable:
            self.check()
            return
        try:
            self._write_and_remove()
        except StorageFull:
            return  # a full one reads as well as ever
        except StorageError as error:
            self.check()
            error.unwritable, error.dead = True, False
            raise

    def _write_and_remove(self) -> None:
        self._client.put(self._probed, _PROBE)
        opened = self._client.get(self._probed)
        with self._client.translated("probe"):
            read = None if opened is None else bytes(opened.bytes())
        self._client.delete(self._probed)
        if read != _PROBE:
            raise StorageError(self.root, "probe", "gives back something else than was written")

    def left(self, space: Space) -> int:
        """Bytes that may be written: none for a while after a write was refused for want of room."""
        return 0 if self._client.full else space.free

    def locate(self, digest: Digest) -> str:
        """Tell where the replica of a blob lies, or would."""
        return f"{self.root.rstrip('/')}/{digest.key}"

    def open(self, digest: Digest) -> BucketReplica | None:
        """Open the replica of a blob; None only when the bucket answers that it has no such object."""
        key = self._prefix + digest.key
        opened = self._client.get(key)
        if opened is None:
            return None
        replica = BucketReplica(self._client, key, self.locate(digest), opened)
        if replica.size <= AT_ONCE:
            replica.read(0, replica.size)
        return replica

    def open_cached(self, digest: Digest) -> Literal[False]:  # noqa: ARG002  that of the protocol
        """Never: what is in a bucket is behind the network."""
        return False

    def open_own(self, digest: Digest) -> BucketReplica | None:
        """Open the replica as `open` does: nothing can be mounted over a bucket."""
        return self.open(digest)

    def open_own_cached(self, digest: Digest) -> Literal[False]:  # noqa: ARG002  that of the protocol
        """Never: what is in a bucket is behind the network."""
        return False

    def open_cached_path(self, path: bytes) -> Literal[False]:  # noqa: ARG002  that of the protocol
        """Never: what is in a bucket is behind the network."""
        return False

    def is_in_place(self) -> bool:
        """Never: that takes asking over the network."""
        return False

    def confirm(self, digest: Digest) -> None:
        """Do nothing: what a bucket has acknowledged is durable."""

    @property
    def syncs(self) -> bool:
        """Whether there is anything to sync: no, what a bucket has acknowledged is durable."""
        return False

    @property
    def prompt(self) -> bool:
        """Whether writing waits for nothing: no, it waits for the network."""
        return False

    def make_way(self, digest: Digest) -> bool:
        """Tell whether there is no object of a blob's name."""
        return self._client.look_at(self._prefix + digest.key) is None

    def open_for_writing(self) -> AbstractContextManager[Bucket]:
        """Write several blobs in one go: each is one for itself."""
        return nullcontext(self)

    def stage(self, size: int, *, shared: bool = False) -> StagedObject:  # noqa: ARG002  nothing is to be synced
        """Begin a replica of `size` bytes, as far as known."""
        return StagedObject(self._client, self._prefix, size, self._spool)

    def sweep(self) -> int:
        """Remove nothing: files without names end with their process, parts of uploads by a rule of the bucket."""
        return 0

    def enqueue(self, queue: QueueName, digest: Digest) -> None:
        """Note a blob durably, for later."""
        self._client.put(self._queued(queue, digest), b"")
        self._empty_until.pop(queue, None)

    def take_turn(self, queue: QueueName) -> BucketTurn | None:
        """Keep all others of this machine from working on a queue; whatever others do, may be done twice."""
        return BucketTurn.take(f"{self.root}/{queue}")

    def pending(self, queue: QueueName, most: int, beyond: int = 0) -> list[Digest]:
        """Tell the blobs that are noted, at most `most`, leaving out the first `beyond`, in their order.

        A queue that was empty is not looked at again within a minute, since a bucket's listings cost money.
        """
        if time.monotonic() < self._empty_until.get(queue, 0.0):
            return []
        names = self._client.names(f"{self._prefix}.stor/{queue}", beyond + most)[beyond:]
        if not (names or beyond):
            self._empty_until[queue] = time.monotonic() + _EMPTY_FOR
        return list(digests_in(names))

    def dequeue(self, queue: QueueName, digest: Digest, noted_before: float) -> None:  # noqa: ARG002
        """Forget a blob that was noted: nobody can tell when, without a race."""
        self._client.delete(self._queued(queue, digest))

    def _queued(self, queue: QueueName, digest: Digest) -> str:
        return f"{self._prefix}.stor/{queue}/{digest.hex.upper()}"

    def presign(self, digest: Digest, seconds: int) -> str:
        """Make a URL with which anybody may get a blob for so many seconds, at most a week."""
        return self._client.sign(self._prefix + digest.key, seconds)
