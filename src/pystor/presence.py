"""Whether what is in the place of a storage is that storage: another disk, or none, does nothing in its name."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from pystor import marker, mounts
from pystor.errors import StorageError, translated
from pystor.marker import HOME, NAME, Homes, Marker, Sign
from pystor.watch import Watch


class Found(NamedTuple):
    """What was found in the place of a storage, and is it unless something speaks against that."""

    marker: Marker
    path: str
    """The file or directory by which it is recognised from then on: its marker, or the root of one without."""
    sign: Sign


class Presence:
    """The storage that was found in a directory, and whether it still is there.

    Methods raise `StorageError`, but for `is_known`.
    """

    def __init__(
        self,
        root: str,
        *,
        writable: bool,
        require_mount: bool | None,
        replica_set: str | None,
        watch: Watch | None,
        homes: Homes,
    ) -> None:
        """Look at nothing yet; see `Directory`."""
        self._root: Final = root
        self._writable: Final = writable
        self._require_mount: Final = require_mount
        self._replica_set = replica_set
        self._watch: Final = watch
        self._homes: Final = homes
        self._path = f"{root}/{NAME}"
        self._known: Sign | None = None
        # What the watch had counted, so that one comparison tells whether something has happened since:
        self._followed = -1  # `displaced`, when the path was last followed; -1: it is not
        self._tried = -1  # `changes`, when that was last tried
        self._seen = -1  # `changes`, when the storage was last found in its place

    @property
    def may_be_plain(self) -> bool:
        """Whether it is said that the storage needs no mount of its own."""
        return self._require_mount is False

    @property
    def watched(self) -> bool:
        """Whether `watch` would notice if another storage, or none, were put in its place."""
        return self._watch is not None and self._followed == self._watch.displaced

    @property
    def changes(self) -> int:
        """How often paths may have come to lead elsewhere until now, as far as that is watched."""
        return 0 if self._watch is None else self._watch.changes()

    def look(self) -> Marker | None:
        """Read the marker of what is there, and touch nothing; None: it has none."""
        with translated(self._root, "attach"):
            os.stat(self._root)
            found = marker.read(self._root)
            if found is not None:
                self._refuse_bare_mount_point(found)
        return found

    def find(self) -> Found:
        """Find what is in the place of the storage, and raise if that is not it; `settle` accepts it."""
        marked = self.look()
        path = f"{self._root}/{NAME}" if marked else self._root
        with translated(self._root, "attach"):
            found = marked or self._stand_in()
            # A new disk of the same set was adopted deliberately; any other is in the wrong place.
            if (marked or self._known) and found.replica_set != (self._replica_set or found.replica_set):
                than = "before" if self._known else "its replica set has"
                raise self._refusal(
                    f"is another storage than {than}: mount the right disk, or send SIGHUP if this is it"
                )
            self._follow(path)
            sign = marker.sign(path)
            other = self._homes.claim(path, sign)
            if other is not None:
                raise self._refusal(
                    f"is the disk that is at {other.removesuffix(f'/{NAME}')}, too: mount the right disk"
                )
        return Found(found, path, sign)

    def settle(self, found: Found) -> bool:
        """Take what was found for the storage from now on; tells whether it is another one than before."""
        changed = found.sign != self._known
        self._replica_set = found.marker.replica_set
        self._path, self._known = found.path, found.sign
        return changed

    def _stand_in(self) -> Marker:
        """Make up a marker for a disk that has none and takes none, since it is mounted read-only."""
        self._refuse_bare_mount_point(None)
        found = None if self._writable else marker.stand_in(self._root)
        if found is None:
            raise self._refusal(f"has no {HOME} marker: mount the disk, or adopt it")
        return found

    def mark(self, replica_set: str) -> None:
        """Make what is there a storage of a replica set; one that has a marker keeps it."""
        with translated(self._root, "adopt"):
            if marker.read(self._root) is None:
                self.refuse_bare_mount_point()
                marker.write(self._root, Marker(marker.new_id(), replica_set, mounts.is_mount(self._root)))

    def refuse_bare_mount_point(self) -> None:
        """See that a disk is mounted there, if one has to be, though it has no marker."""
        with translated(self._root, "attach"):
            self._refuse_bare_mount_point(None)

    def _refuse_bare_mount_point(self, found: Marker | None) -> None:
        required = self._require_mount
        if required is None:
            required = found is not None and found.own_device
        if required and not mounts.is_mount(self._root):
            raise self._refusal("is not mounted: mount it (or set require_mount to false)")

    def is_known(self, root_fd: int | None) -> bool:
        """Tell whether the storage is in its place, or at the descriptor of a root. Raises `OSError` if nobody knows.

        If it is not watched any more, since its disk was gone for a while, it is watched again from now on.
        """
        if self._watch is not None and self._watch.changes() != self._tried and not self.watched:
            self._follow(self._path)
        try:
            return self._sign(root_fd) == self._known
        except FileNotFoundError:
            return False

    def _sign(self, root_fd: int | None) -> Sign:
        if root_fd is None:
            return marker.sign(self._path)
        return marker.sign(root_fd) if self._path == self._root else marker.sign(NAME, root_fd)

    def is_in_place(self) -> bool:
        """Tell the same without waiting: at once if nothing has changed since the last look; False if nobody knows."""
        changes = self.changes
        watched = self.watched  # before it is looked at
        if watched and changes == self._seen:
            return True
        try:
            there = marker.sign(self._path) == self._known
        except OSError:
            return False
        if there and watched:
            self._seen = changes
        return there

    def _follow(self, path: str) -> None:
        """Have its path watched from now on. It is looked at once more: what happened before that went unnoticed."""
        if self._watch is not None:
            self._tried, displaced, self._seen = self._watch.changes(), self._watch.displaced, -1
            self._followed = displaced if self._watch.follow(path) else -1

    def holds(self, fd: int) -> bool:
        """Tell without waiting whether a file is on the storage's filesystem, and that is mounted where it was."""
        if self._known is None or not self.is_in_place():
            return False
        try:
            return os.fstat(fd).st_dev == self._known[0]
        except OSError:
            return False

    def _refusal(self, reason: str) -> StorageError:
        return StorageError(self._root, "attach", reason)
