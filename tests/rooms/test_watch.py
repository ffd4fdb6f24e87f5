"""A miss is believed without a look at the marker only for as long as nothing can have moved the storage."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pystor import posix
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.watch import Watch
from tests.rooms.tools import adopted, place, pool_of, run
from tests.support.mounts import Mounts

NOWHERE = Digest.of(b"nowhere")


def primed(root: Path, watch: Watch | None) -> Directory:
    """A storage whose missing blob is known to be missing, to the kernel's caches too."""
    storage = adopted(root, watch=watch)
    assert storage.open(NOWHERE) is None
    assert looks(storage) == [None] * 3
    return storage


def looks(storage: Directory) -> list[object]:
    """What it says of the missing blob, once the kernel's caches know that it is missing there, too."""
    assert not os.access(storage.locate(NOWHERE), os.F_OK)
    return [storage.open_cached(NOWHERE) for _ in range(3)]


def move_marker(root: Path) -> None:
    (root / ".stor" / "storage.json").rename(root / ".stor" / "away")


def remove_marker(root: Path) -> None:
    (root / ".stor" / "storage.json").unlink()


def replace_marker(root: Path) -> None:
    marker = root / ".stor" / "storage.json"
    (root / "new").write_bytes(marker.read_bytes())
    (root / "new").rename(marker)


def move_home(root: Path) -> None:
    (root / ".stor").rename(root / "home")


def move_root(root: Path) -> None:
    root.rename(root.with_name("away"))


def replace_root(root: Path) -> None:
    move_root(root)
    adopted(root, "another set")


def move_parent(root: Path) -> None:
    root.parent.rename(root.parent.with_name("away"))


def exchange_parent(root: Path) -> None:
    move_parent(root)
    root.mkdir(parents=True)


def remove_all(root: Path) -> None:
    subprocess.run(["rm", "-r", root], check=True)


DISPLACED: dict[str, Callable[[Path], None]] = {
    function.__name__.replace("_", " "): function
    for function in (
        move_marker,
        remove_marker,
        replace_marker,
        move_home,
        move_root,
        replace_root,
        move_parent,
        exchange_parent,
        remove_all,
    )
}


@pytest.mark.parametrize("displace", DISPLACED.values(), ids=DISPLACED.keys())
@pytest.mark.parametrize("watched", [True, False])
def test_what_is_missing_in_a_storage_that_was_displaced_is_not_believed_to_be_missing(
    tmp_path: Path, displace: Callable[[Path], None], *, watched: bool
) -> None:
    root = tmp_path / "parent" / "storage"
    storage = primed(root, Watch() if watched else None)
    assert storage.watched is watched

    displace(root)

    assert looks(storage) == [False] * 3


def test_what_is_missing_in_an_empty_mount_point_is_not_believed_to_be_missing(mounts: Mounts) -> None:
    point = mounts.ext4()
    storage = primed(point, Watch())

    subprocess.run(["umount", point], check=True)

    assert looks(storage) == [False] * 3


def test_what_is_missing_where_a_disk_that_is_still_in_use_was_unmounted_is_not_believed_to_be_missing(
    mounts: Mounts,
) -> None:
    point = mounts.ext4()
    storage = primed(point, Watch())

    with (point / "in use").open("wb"):  # so that its end is not the end of the filesystem
        mounts.unmount(point)

        assert looks(storage) == [False] * 3


def test_what_is_missing_in_what_was_mounted_over_a_storage_is_not_believed_to_be_missing(
    mounts: Mounts, tmp_path: Path
) -> None:
    storage = primed(tmp_path / "storage", Watch())

    mounts.tmpfs(1 << 20, at=tmp_path / "storage")

    assert looks(storage) == [False] * 3


def test_what_is_missing_behind_a_link_that_leads_elsewhere_now_is_not_believed_to_be_missing(tmp_path: Path) -> None:
    disk, other, link = tmp_path / "disk", tmp_path / "other", tmp_path / "link"
    disk.mkdir()
    other.mkdir()
    link.symlink_to(disk)
    storage = primed(link, Watch())
    assert not storage.watched

    link.unlink()
    link.symlink_to(other)

    assert looks(storage) == [False] * 3


def test_a_storage_that_was_moved_back_is_believed_again(tmp_path: Path) -> None:
    storage = primed(tmp_path / "storage", Watch())
    move_root(tmp_path / "storage")
    assert looks(storage) == [False] * 3
    (tmp_path / "away").rename(tmp_path / "storage")

    assert looks(storage) == [None] * 3


def test_what_is_missing_in_a_storage_that_was_displaced_after_its_disk_had_come_back_is_not_believed_to_be_missing(
    mounts: Mounts,
) -> None:
    """With the disk the kernel has dropped what it watched of it."""
    point = mounts.ext4()
    storage = primed(point / "storage", Watch())
    mounts.mount_again(point)
    assert storage.open(NOWHERE) is None
    assert looks(storage) == [None] * 3

    replace_root(point / "storage")

    assert looks(storage) == [False] * 3


def test_a_storage_whose_disk_has_come_back_is_watched_again(mounts: Mounts) -> None:
    point = mounts.ext4()
    storage = primed(point / "storage", Watch())

    for _ in range(2):
        mounts.mount_again(point)
        assert looks(storage) == [None] * 3
        told_before = storage.watched
        storage.check()
        assert [told_before, storage.watched] == [False, True]


def test_what_is_missing_where_what_lies_above_was_another_before_is_not_believed_to_be_missing(tmp_path: Path) -> None:
    root = tmp_path / "parent" / "storage"
    storage = primed(root, Watch())
    move_parent(root)
    root.parent.mkdir()
    (tmp_path / "away" / "storage").rename(root)
    storage.check()
    assert looks(storage) == [None] * 3

    root.parent.rename(tmp_path / "elsewhere")

    assert looks(storage) == [False] * 3


def test_a_pool_believes_no_miss_in_a_storage_that_was_displaced_after_its_disk_had_come_back(mounts: Mounts) -> None:
    watch, point = Watch(), mounts.ext4()
    storages = [primed(point / f"{number}", watch) for number in range(4)]

    async def scenario() -> None:
        pool = pool_of(storages[:2], storages[2:], watch=watch)
        assert pool.find_now(NOWHERE) is not None
        mounts.mount_again(point)
        for storage in storages:
            assert storage.open(NOWHERE) is None
            assert looks(storage) == [None] * 3
        assert [pool.find_now(NOWHERE) is None for _ in range(2)] == [True, False]  # it may have come back just now

        replace_root(point / "3")
        os.access(storages[3].locate(NOWHERE), os.F_OK)

        assert [pool.find_now(NOWHERE) for _ in range(3)] == [None] * 3

    run(scenario())


def test_while_nothing_changes_the_marker_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = primed(tmp_path / "storage", Watch())

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("looked")

    monkeypatch.setattr(os, "stat", refuse)

    assert storage.open_cached(NOWHERE) is None


def test_what_happens_to_blobs_is_no_change(tmp_path: Path) -> None:
    watch = Watch()
    storage = primed(tmp_path / "storage", watch)
    before = watch.changes()

    place(storage, b"a blob").unlink()
    with storage.stage(1) as staged:
        staged.write(b"x")

    assert watch.changes() == before


def test_a_storage_that_cannot_be_watched_is_looked_at_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")  # as when there are no more watches

    monkeypatch.setattr(posix, "watch", refuse)
    storage = primed(tmp_path / "storage", Watch())

    assert not storage.watched
    remove_marker(tmp_path / "storage")
    assert looks(storage) == [False] * 3


@pytest.mark.parametrize("displaced", range(4))
def test_a_pool_believes_a_miss_only_if_every_storage_is_in_its_place(tmp_path: Path, displaced: int) -> None:
    watch = Watch()
    storages = [primed(tmp_path / f"{number}", watch) for number in range(4)]

    async def scenario() -> None:
        pool = pool_of(storages[:2], storages[2:], watch=watch)
        for _ in range(3):
            result = pool.find_now(NOWHERE)
            assert result is not None
            assert result.replica is None
            assert result.attempts == 4

        move_root(tmp_path / f"{displaced}")
        os.access(storages[displaced].locate(NOWHERE), os.F_OK)

        assert [pool.find_now(NOWHERE) for _ in range(3)] == [None] * 3

    run(scenario())


def test_a_replica_is_not_missing_where_the_storage_is(tmp_path: Path) -> None:
    """Nobody is asked to repair what is only away."""
    watch = Watch()
    pair = [primed(tmp_path / f"{number}", watch) for number in range(2)]
    place(pair[0], b"a blob")
    move_root(tmp_path / "1")

    async def scenario() -> None:
        pool = pool_of(pair, watch=watch)
        for _ in range(20):
            result = pool.find_now(Digest.of(b"a blob"))
            if result is not None and result.replica is not None:
                result.replica.close()
        assert not pool.repairs._asked

    run(scenario())


@pytest.mark.parametrize("before", [1, 3000])  # of that many the kernel tells in several pieces
def test_that_something_was_displaced_is_seen_behind_all_else_that_happened(tmp_path: Path, before: int) -> None:
    watch, paths = Watch(), [tmp_path / name for name in "ab"]
    for path in paths:
        path.touch()
        assert watch.follow(str(path))
    watch.changes()
    for number in range(before):
        for path in paths:
            path.chmod(0o600 + number % 2)
    paths[0].rename(tmp_path / "away")
    watch.changes()
    assert watch.displaced == 1
