"""A look-up in all storages of a pool that does not block: what the kernel's caches tell of a blob, and no disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from pystor.blob import Replica, Storage
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.lookups import MANY, CachedLookups
from pystor.replicas import ReplicaSet
from pystor.watch import Watch


class Seen(NamedTuple):
    """An open replica, or that there is none; and how it was found."""

    replica: Replica | None
    attempts: int
    """How many storages were asked."""
    missing: Sequence[Bulkhead] = ()
    """Those of them that have none, if another has."""


class NonBlockingLookup:
    """Looks for blobs in the storages of all sets at once. To be used in the event loop."""

    def __init__(self, sets: Sequence[ReplicaSet], watch: Watch | None) -> None:
        """`watch` is that of the storages; without one, each of them is looked at before a miss is believed."""
        self._watch: Final = watch
        self._settled: int | None = None
        """What the watch had counted when all storages were last found in their places; None: it does not tell."""
        self._storages: Final = [member.storage for each in sets for member in each.members]
        self._nowhere: Final = Seen(None, len(self._storages))
        self._others: Final = {
            each: tuple(member for other in sets if other is not each for member in other.members) for each in sets
        }
        self._at_once: Final = _at_once(self._storages, self._others)

    def look(self, digest: Digest, likeliest: ReplicaSet) -> Seen | None:
        """Open a replica, which is not verified, or learn that there is none; None if that takes waiting.

        The order in which the other sets are asked matters only where a disk is.
        """
        before = self.changes() if self._settled is None else self._settled
        path = digest.path.encode()
        missing: list[Bulkhead] = []
        for members in (likeliest.in_turn(), self._others[likeliest]):
            if missing and members and self._is_nowhere_else(path, likeliest):
                # That counts if they are in their places, were so before, and are still of the kind that is asked so.
                return self._nowhere if self._in_place_at() == before else None
            for member in members:
                found = member.storage.open_cached_path(path)
                if found is False:
                    return None
                if found is not None:
                    return Seen(found, len(missing) + 1, [each for each in missing if each.storage.is_in_place()])
                missing.append(member)
        return self._nowhere if self._in_place_at() == before else None

    def _is_nowhere_else(self, path: bytes, likeliest: ReplicaSet) -> bool:
        """Ask all other sets at once, if they are known to be local; False if that does not tell."""
        none_has = self._at_once.get(likeliest)
        if none_has is None or self._settled is None:
            return False
        try:
            return none_has(path)
        except OSError:
            self._at_once.clear()  # one by one then
            return False

    def is_all_in_place(self) -> bool:
        """Tell whether every storage is where it was; at once if nothing has changed since that was looked at.

        False also if one is not local: to look there might wait.
        """
        return self._in_place_at() is not None

    def _in_place_at(self) -> int | None:
        """Tell what the watch has counted by now, if every storage is where it was."""
        changes = self.changes()
        if changes == self._settled:
            return changes
        if not all(storage.local for storage in self._storages):
            return None
        are_watched = all(storage.watched for storage in self._storages)  # before they are looked at
        if not all(storage.is_in_place() for storage in self._storages):
            return None
        self._settled = changes if are_watched else None
        return changes

    def changes(self) -> int:
        """Tell what the watch has counted; without one, always the same."""
        return 0 if self._watch is None else self._watch.changes()


def _at_once(
    storages: Sequence[Storage], others: Mapping[ReplicaSet, Sequence[Bulkhead]]
) -> dict[ReplicaSet, Callable[[bytes], bool]]:
    """Prepare to ask all but one set at once, for each; nothing where they are few, or the kernel does not let us."""
    asked = {each: members for each, members in others.items() if len(members) >= MANY}
    if not asked:
        return {}
    try:
        lookups = CachedLookups([storage.root for storage in storages])
    except OSError:
        return {}
    numbers = {storage: number for number, storage in enumerate(storages)}

    def none_of(members: Sequence[Bulkhead]) -> Callable[[bytes], bool]:
        return partial(lookups.none_has, choice=lookups.choose([numbers[member.storage] for member in members]))

    return {each: none_of(members) for each, members in asked.items()}
