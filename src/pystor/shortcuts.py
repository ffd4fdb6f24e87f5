"""The way back to a small blob that was just served: straight to its replicas, without looking for them."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from pystor.blob import Again, Replica
from pystor.replicas import ReplicaSet

_T = TypeVar("_T")


class Shortcut(Generic[_T]):
    """Reads a blob again from the replicas that served it, each for as long as it is the very file it was then.

    With each it keeps a note of how it was served: replicas of one blob may have different times.
    """

    __slots__ = ("_replica_set", "_ways")

    def __init__(self, replica_set: ReplicaSet) -> None:
        """Know no replica of this set yet."""
        self._replica_set: Final = replica_set
        self._ways: Final[dict[str, tuple[Again, _T]]] = {}

    def learn(self, replica: Replica, note: _T) -> None:
        """Take note of a replica that is verified."""
        if replica.again is not None:
            self._ways[replica.storage] = replica.again, note

    def follow(self, room: memoryview | None) -> tuple[str, memoryview, _T] | None:
        """Read the blob, from a member that is as good as any: its root, and all bytes, in `room`, and the note.

        None: look for it anew. Without `room` nothing is read: the replica is still there, and the same.
        """
        root = self._replica_set.pick().storage.root
        way = self._ways.get(root)
        if way is None:
            return None
        again, note = way
        content = again(room)
        return None if content is None else (root, content, note)
