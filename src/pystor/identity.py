"""What is in the place of each storage: the one that was there, a new one, or an empty mount point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pystor.marker import HOME, NAME, Marker
from pystor.mounts import FSTAB


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at the place of a storage showed."""

    root: str
    marker: Marker | None = None
    mounted: bool = False
    """Whether it is a mount of its own."""
    unmounted: str | None = None
    """A directory on the way to it where the system's table says that a disk belongs, and none is."""
    may_be_plain: bool = False
    """Whether the configuration says that no mount is needed."""
    stands_in: bool = False
    """Whether it takes no marker and needs none: it is mounted read-only, and not to be written to."""
    owner: int | None = None
    """The user whose the storage is, or the directory that may become one."""
    fault: str | None = None
    """Why nothing could be seen."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a storage is taken for."""

    seen: Seen
    replica_set: str | None
    """The set that it belongs to, as the markers say; None when no storage of the set has one."""
    refusal: str | None
    """Why it is not used as it is, and what to do."""
    doubt: str | None = None
    """What speaks against it if it is new, though it may be meant."""

    @property
    def new(self) -> bool:
        """Whether it was no storage before, and may become one."""
        return self.refusal is None and self.seen.marker is None and not self.seen.stands_in


def judge(sets: Sequence[Sequence[Seen]]) -> list[Verdict]:
    """Tell what the storages of all replica sets are, one after the other.

    A storage without a marker is new only if none of its set has one, all of its set could be seen, and nothing says
    that its disk is missing: who is not sure does not write. One with the marker of another set is not used.
    """
    disk = next((seen.root for group in sets for seen in group if seen.marker and seen.marker.own_device), None)
    mount = next((seen.root for group in sets for seen in group if seen.mounted and not seen.stands_in), None)
    return [
        Verdict(seen, replica_set, _refuse(seen, replica_set, group, disk), _doubt(seen, mount))
        for group, replica_set in zip(sets, _by_markers(sets), strict=True)
        for seen in group
    ]


def _by_markers(sets: Sequence[Sequence[Seen]]) -> list[str | None]:
    """Tell which replica set each group of storages is, where disks may have changed places: what most of them say.

    If as many say something else, it is what no other group is, or says; and then what the first storage says.
    """
    said = [Counter(seen.marker.replica_set for seen in group if seen.marker) for group in sets]
    groups = Counter(name for names in said for name in names)
    found: list[str | None] = []
    for names in said:
        ranks = {name: (count, name not in found, groups[name] == 1) for name, count in names.items()}
        found.append(max(ranks, key=ranks.__getitem__, default=None))
    return found


def _refuse(seen: Seen, replica_set: str | None, group: Sequence[Seen], disk: str | None) -> str | None:
    if seen.fault is not None:
        return seen.fault
    if seen.stands_in:
        return None
    if seen.marker is None:
        return _refuse_as_new(seen, replica_set, group, disk)
    return None if seen.marker.replica_set == replica_set else _displaced(group, replica_set)


def _displaced(group: Sequence[Seen], replica_set: str | None) -> str:
    others = next(seen.root for seen in group if seen.marker and seen.marker.replica_set == replica_set)
    return f"is of another replica set than {others}: mount the right disk, or remove its {NAME} and adopt it"


def _refuse_as_new(seen: Seen, replica_set: str | None, group: Sequence[Seen], disk: str | None) -> str | None:
    """Tell why a storage without a marker is not taken for a new one."""
    if replica_set is not None:
        return f"has no {HOME} marker, as the others of its set have: mount the disk, or adopt it"
    if (reason := _bare(seen, disk)) is not None:
        return reason if seen.unmounted else f"{reason}; if it has no disk, adopt it"
    doubtful = next((other.root for other in group if other.fault or _bare(other, disk)), None)
    if doubtful is None:
        return None
    return f"has no {HOME} marker, and {doubtful} does not show whether it had one: mend that first, or adopt it"


def _bare(seen: Seen, disk: str | None) -> str | None:
    """Tell why a directory without a marker seems to be a mount point whose disk is missing.

    `disk` is another storage that is a mount.
    """
    if seen.mounted or seen.may_be_plain:
        return None
    if seen.unmounted is not None:
        return f"nothing is mounted at {seen.unmounted}, which {FSTAB} names: mount it (or set require_mount to false)"
    if disk is not None:
        return f"is not mounted, as {disk} is: mount the disk (or set require_mount to false)"
    return None


def _doubt(seen: Seen, mount: str | None) -> str | None:
    """Tell what nobody can know before there are markers: whether a directory among mounts has a disk, too."""
    if seen.mounted or seen.may_be_plain or mount is None:
        return None
    return f"it is not mounted, as {mount} is"


def refuse_adoption(seen: Seen, peers: Sequence[Seen], strangers: Sequence[Seen]) -> str | None:
    """Tell why a directory is not to be adopted, though an operator says so.

    `peers` are the others of its set, `strangers` those of the other sets.
    """
    if seen.fault is not None:
        return seen.fault
    (replica_set,) = _by_markers([peers])
    if seen.marker is not None:
        theirs = seen.marker.replica_set
        if replica_set is not None:
            return None if theirs == replica_set else _displaced(peers, replica_set)
        owner = next((other.root for other in strangers if other.marker and other.marker.replica_set == theirs), None)
        return owner and f"is of the replica set of {owner}: mount the right disk, or remove its {NAME} and adopt it"
    disks = [other.root for other in peers if other.marker and other.marker.own_device]
    all_are_disks = disks and len(disks) == sum(other.marker is not None for other in peers)
    return _bare(seen, disks[0] if all_are_disks else None)
