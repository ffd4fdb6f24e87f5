"""A glance at all storages of a pool: what of a blob the kernel's caches tell, without a disk that is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

from pystor.blob import Replica
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.replicas import ReplicaSet
from pystor.watch import Watch


class Seen(NamedTuple):
    """An open replica, or that there is none; and how it was found."""

    replica: Replica | None
    attempts: int
    """How many storages were asked."""
    missing: Sequence[Bulkhead] = ()
    """Those of them that have none, if another has."""


class Glances:
    """Looks for blobs in the storages of all sets at once. To be used in the event loop."""

    def __init__(self, sets: Sequence[ReplicaSet], watch: Watch | None) -> None:
        """`watch` is that of the storages; without one, each of them is looked at before a miss is believed."""
        self._watch: Final = watch
        self._settled: int | None = None
        self._storages: Final = [member.storage for each in sets for member in each.members]
        self._others: Final = {
            each: tuple(member for other in sets if other is not each for member in other.members) for each in sets
        }

    def look(self, digest: Digest, likeliest: ReplicaSet) -> Seen | None:
        """Open a replica, which is not verified, or learn that there is none; None if that takes waiting.

        The order in which the other sets are asked matters only where a disk is.
        """
        path = digest.path.encode()
        missing: list[Bulkhead] = []
        for member in chain(likeliest.in_turn(), self._others[likeliest]):
            found = member.storage.glance(path)
            if found is False:
                return None
            if found is not None:
                return Seen(found, len(missing) + 1, [each for each in missing if each.storage.is_in_place()])
            missing.append(member)
        return Seen(None, len(missing)) if self._is_all_in_place() else None

    def _is_all_in_place(self) -> bool:
        """Tell whether every storage is where it was; at once if nothing has changed since that was looked at."""
        changes = None if self._watch is None else self._watch.changes()
        if changes is not None and changes == self._settled:
            return True
        if not all(storage.is_in_place() for storage in self._storages):
            return False
        self._settled = changes if all(storage.watched for storage in self._storages) else None
        return True
