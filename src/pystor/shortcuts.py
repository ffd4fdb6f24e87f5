"""The way back to a blob that was just served: straight to its replicas, without looking for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pystor.blob import Again, Replica
from pystor.replicas import ReplicaSet
from pystor.verification import Verifier

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Way(Generic[_T]):
    """A replica that is not open, and is read for as long as it is the very file it was."""

    storage: str
    size: int
    modified: int
    read_cached: Again
    note: _T
    """How it was served: replicas of one blob may have different times."""
    doubts: int
    """Those that there had been when it was verified."""


class Shortcut(Generic[_T]):
    """The ways to those replicas of a blob that served it."""

    __slots__ = ("_replica_set", "_verifier", "_ways")

    def __init__(self, replica_set: ReplicaSet, verifier: Verifier) -> None:
        """Know no replica of this set yet; the verifier is the one that knows those that are learnt."""
        self._replica_set: Final = replica_set
        self._verifier: Final = verifier
        self._ways: Final[dict[str, Way[_T]]] = {}

    def learn(self, replica: Replica, note: _T) -> None:
        """Take note of a replica that is verified."""
        again = replica.again
        if again is not None:
            way = Way(replica.storage, replica.size, replica.modified, again, note, self._verifier.doubts)
            self._ways[replica.storage] = way

    def pick(self) -> Way[_T] | None:
        """Choose the replica of a member that is as good as any; None if that has not served it yet.

        A look-up then begins with that very member, so that each gets its share of the reads from the start. None also
        if any replica was doubted since: to ask each time whether it was this one would take longer.
        """
        way = self._ways.get(self._replica_set.first.storage.root)
        if way is None or way.doubts != self._verifier.doubts:
            return None
        self._replica_set.advance()
        return way
