"""The way back to a small blob that was just served: straight to its replicas, without looking for them."""

from __future__ import annotations

from typing import Final

from pystor.blob import Again, Replica
from pystor.replicas import ReplicaSet


class Shortcut:
    """Reads a blob again from the replicas that served it, each for as long as it is the very file it was then."""

    __slots__ = ("_agains", "_replica_set")

    def __init__(self, replica_set: ReplicaSet) -> None:
        """Know no replica of this set yet."""
        self._replica_set: Final = replica_set
        self._agains: Final[dict[str, Again]] = {}

    def learn(self, replica: Replica) -> None:
        """Take note of a replica that is verified."""
        if replica.again is not None:
            self._agains[replica.storage] = replica.again

    def follow(self, room: memoryview | None) -> tuple[str, memoryview] | None:
        """Read the blob, from a member that is as good as any: its root, and all bytes, in `room`.

        None: look for it anew.
        Without `room` nothing is read: the replica is still there, and the same.
        """
        root = self._replica_set.pick().storage.root
        again = self._agains.get(root)
        content = None if again is None else again(room)
        return None if content is None else (root, content)
