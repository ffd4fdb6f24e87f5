"""The rules of a write, on one storage."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from pystor import posix, staging, tree
from pystor.blob import Fingerprint, QueueName, Space
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError, StorageFull
from pystor.marker import HOME
from pystor.open_directory import OpenDirectory
from pystor.staging import Root, StagedFile
from pystor.temporary import TEMPORARIES
from tests.rooms.tools import (
    adopted,
    beside,
    blobs,
    break_disk,
    descriptors,
    in_the_way,
    path_of,
    place,
    temporaries,
    where,
)
from tests.support.fuse import Fault, FaultyStorage
from tests.support.mounts import Mounts

CONTENT = b"a blob"
BLOB = Digest.of(CONTENT)


@pytest.fixture
def storage(tmp_path: Path) -> Directory:
    return adopted(tmp_path / "a")


def publish(storage: Directory, content: bytes) -> None:
    with storage.stage(len(content)) as staged:
        staged.write(content)
        staged.sync()
        staged.publish(Digest.of(content))


# The way of a file


def test_a_temporary_is_private_and_beside_the_blobs(storage: Directory) -> None:
    with storage.stage(6) as staged:
        staged.write(CONTENT)
        (temporary,) = temporaries(storage)

        assert temporary.read_bytes() == CONTENT
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        assert stat.S_IMODE(temporary.parent.stat().st_mode) == 0o700
        assert not blobs(storage)


def test_a_temporary_is_made_and_never_found(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    real = os.open

    def spy(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if str(path).startswith(TEMPORARIES):
            opened.append(flags)
        return real(path, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", spy)
    storage.stage(6).discard()

    assert len(opened) == 1
    wanted = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    assert opened[0] & wanted == wanted


def test_a_published_replica_has_its_name_and_is_for_all_to_read(storage: Directory, tmp_path: Path) -> None:
    publish(storage, CONTENT)
    path = where(storage, BLOB)

    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert not temporaries(storage)
    assert not descriptors(tmp_path)


def test_a_replica_whose_directories_are_still_synced_is_not_done(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop closes what is done: it would wait for a disk that hangs."""
    syncing, go_on = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        syncing.set()
        assert go_on.wait(20)

    monkeypatch.setattr(tree, "sync_way", hang)
    staged = storage.stage(6)
    staged.write(CONTENT)
    staged.sync()
    publishing = threading.Thread(target=staged.publish, args=(BLOB,))
    publishing.start()
    assert syncing.wait(20)
    assert where(storage, BLOB).exists()
    assert not staged.published
    go_on.set()
    publishing.join()
    assert staged.published


@pytest.mark.parametrize("shared", [False, True])
def test_a_replica_that_got_its_name_on_a_disk_that_is_gone_is_not_done(tmp_path: Path, *, shared: bool) -> None:
    """To close the last file of a disk that was unmounted meanwhile syncs it: that is for a thread."""
    storage = adopted(tmp_path / "a")
    storage._commits = shared
    with storage.open_for_writing() as opened, opened.stage(6, shared=shared) as staged:
        staged.write(CONTENT)
        staged.sync()
        os.rename(storage.root, tmp_path / "old")
        with pytest.raises(StorageError):
            staged.publish(BLOB)
        assert not staged.published


def test_uploads_that_make_the_directory_of_temporaries_at_the_same_time_do_not_fail(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir

    def mkdir(path: str, mode: int, *, dir_fd: int) -> None:
        real(path, mode, dir_fd=dir_fd)  # somebody is a little earlier
        real(path, mode, dir_fd=dir_fd)

    Path(storage.root, TEMPORARIES).rmdir()
    monkeypatch.setattr(os, "mkdir", mkdir)
    storage.stage(6).discard()
    assert Path(storage.root, TEMPORARIES).is_dir()


def test_the_empty_blob_is_published_too(storage: Directory) -> None:
    publish(storage, b"")

    assert blobs(storage) == [b""]


def test_what_is_not_published_is_gone_without_a_trace(storage: Directory, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    staged = storage.stage(4 << 20)
    staged.write(CONTENT)
    staged.sync()
    staged.discard()
    staged.close()

    assert sorted(tmp_path.rglob("*")) == before
    assert not descriptors(tmp_path)
    steps: list[Callable[[], None]] = [lambda: staged.write(b"x"), staged.sync, lambda: staged.publish(BLOB)]
    for step in steps:
        with pytest.raises(StorageError):
            step()


def test_a_discard_leaves_a_published_replica(storage: Directory) -> None:
    with storage.stage(6) as staged:
        staged.write(CONTENT)
        staged.sync()
        staged.publish(BLOB)
        staged.discard()

    assert blobs(storage) == [CONTENT]


def test_two_writers_of_one_blob_are_both_right(storage: Directory) -> None:
    with storage.stage(6) as one, storage.stage(6) as other:
        for staged in (one, other):
            staged.write(CONTENT)
            staged.sync()
        one.publish(BLOB)
        one.discard()
        assert blobs(storage) == [CONTENT]
        other.publish(BLOB)

    assert blobs(storage) == [CONTENT]
    assert not temporaries(storage)


def test_a_writer_that_gives_up_leaves_the_blob_of_the_other(storage: Directory) -> None:
    with storage.stage(6) as one:
        one.write(b"ot")
        publish(storage, CONTENT)

    assert blobs(storage) == [CONTENT]


@pytest.mark.parametrize("most", [1, 3])
def test_short_writes_go_on_until_all_is_written(
    storage: Directory, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:most]))
    publish(storage, CONTENT)

    assert blobs(storage) == [CONTENT]


def test_whoever_discards_waits_for_the_step_that_goes_on(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on = threading.Event(), threading.Event()
    real = os.fsync

    def slow(fd: int) -> None:
        began.set()
        assert go_on.wait(10)
        real(fd)

    staged = storage.stage(6)
    monkeypatch.setattr(os, "fsync", slow)
    syncing, discarding = threading.Thread(target=staged.sync), threading.Thread(target=staged.discard)
    syncing.start()
    assert began.wait(10)
    discarding.start()
    discarding.join(0.05)
    assert discarding.is_alive()
    assert temporaries(storage)
    go_on.set()
    syncing.join()
    discarding.join()

    assert not temporaries(storage)


# The order of the steps


class Steps:
    """Writes down what is synced and renamed, by path below the storage."""

    def __init__(self, storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[tuple[str, str]] = []
        fsync, rename = os.fsync, os.rename

        def watched_fsync(fd: int) -> None:
            self.taken.append(("fsync", os.path.relpath(path_of(fd), storage.root)))
            fsync(fd)

        def watched_rename(source: str, target: str, **directories: int) -> None:
            rename(source, target, **directories)
            self.taken.append(("rename", target))

        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(os, "rename", watched_rename)


def age(path: Path) -> None:
    """Make a directory look as if it had not changed for a day."""
    os.utime(path, (time.time() - 86400,) * 2)


def test_bytes_are_synced_then_named_then_each_name_is_synced(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(storage, monkeypatch)
    with storage.stage(6) as staged:
        staged.write(CONTENT)
        (temporary,) = temporaries(storage)
        staged.sync()
        staged.publish(BLOB)
    leaf = os.path.dirname(BLOB.path)

    assert steps.taken[:2] == [("fsync", os.path.relpath(temporary, storage.root)), ("rename", BLOB.path)]
    assert steps.taken[2] == ("fsync", leaf)
    assert sorted(steps.taken[2:]) == sorted(("fsync", path) for path in (leaf, leaf[:5], leaf[:2], "."))


def test_only_the_leaf_is_synced_when_its_parents_are_old(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = where(storage, BLOB).parent
    leaf.mkdir(parents=True)
    for directory in (leaf, leaf.parent, leaf.parent.parent, Path(storage.root)):
        age(directory)
    steps = Steps(storage, monkeypatch)
    publish(storage, CONTENT)

    assert [path for call, path in steps.taken[1:] if call == "fsync"] == [os.path.dirname(BLOB.path)]


def test_a_parent_that_another_has_just_changed_is_synced_too(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf = where(storage, BLOB).parent
    leaf.mkdir(parents=True)
    for directory in (leaf.parent.parent, Path(storage.root)):
        age(directory)
    steps = Steps(storage, monkeypatch)
    publish(storage, CONTENT)

    assert steps.taken[2:] == [("fsync", os.path.dirname(BLOB.path)), ("fsync", BLOB.path[:5])]


def test_a_parent_that_was_made_is_synced_though_its_time_is_wrong(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "_is_fresh", lambda _: False)
    steps = Steps(storage, monkeypatch)
    publish(storage, CONTENT)

    assert {path for call, path in steps.taken[2:]} == {os.path.dirname(BLOB.path), BLOB.path[:5], BLOB.path[:2], "."}


def test_a_parent_that_was_made_before_the_blob_was_written_is_synced_though_its_time_is_wrong(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "_is_fresh", lambda _: False)
    steps = Steps(storage, monkeypatch)
    with storage.open_for_writing() as opened:
        assert opened.make_way(BLOB)
        with opened.stage(len(CONTENT)) as staged:
            staged.write(CONTENT)
            staged.sync()
            staged.publish(BLOB)

    assert {path for call, path in steps.taken[2:]} == {os.path.dirname(BLOB.path), BLOB.path[:5], BLOB.path[:2], "."}


def test_a_parent_that_another_makes_at_the_same_time_is_used(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir

    def raced(name: str, *arguments: Any, **named: Any) -> None:
        real(name, *arguments, **named)
        real(name, *arguments, **named)

    monkeypatch.setattr(os, "mkdir", raced)
    publish(storage, CONTENT)

    assert blobs(storage) == [CONTENT]


def test_nothing_is_synced_where_durability_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = adopted(tmp_path, durable=False)
    steps = Steps(storage, monkeypatch)
    publish(storage, CONTENT)

    assert steps.taken == [("rename", BLOB.path)]


def test_a_step_of_a_large_blob_may_take_as_long_as_a_slow_disk_needs_for_it(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_SLOWEST_DISK", 0.1)
    with storage.stage(6) as staged:
        at_first = staged.timeout
        staged.write(CONTENT)
        assert staged.timeout == at_first + 60


def test_a_large_blob_is_on_its_way_to_the_disk_as_it_comes_and_never_runs_far_ahead(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int, bool]] = []
    real = posix.write_back

    def watched(fd: int, offset: int, size: int, *, wait: bool = False) -> None:
        sent.append((offset, size, wait))
        real(fd, offset, size, wait=wait)

    monkeypatch.setattr(posix, "write_back", watched)
    monkeypatch.setattr(staging, "_AHEAD", 2 << 20)
    storage._commits = True
    batch = 1 << 20
    with storage.stage(4 * batch) as staged:
        for _ in range(4):
            staged.write(bytes(batch))
        staged.write(b"the end")

    assert sent == [
        (0, batch, False),
        (batch, batch, False),
        (2 * batch, batch, False),
        (0, batch, True),
        (3 * batch, batch, False),
        (0, 2 * batch, True),
    ]


def test_a_large_blob_that_others_wait_for_is_never_further_ahead_of_the_disk_than_a_piece(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int, bool]] = []
    monkeypatch.setattr(posix, "write_back", lambda _, offset, size, *, wait=False: sent.append((offset, size, wait)))
    monkeypatch.setattr(staging, "_GENTLE", 30.0)
    storage._commits = True
    batch, piece = 1 << 20, 384 << 10
    with storage.stage(2 * batch) as staged:
        staged.write(bytes(batch), piece)
        staged.write(b"the end", piece)
        assert staged.read_back(2 * batch) == bytes(batch) + b"the end"

    assert sent == [(0, piece, True), (piece, piece, True), (2 * piece, batch - 2 * piece, True)]


def test_a_slow_disk_is_not_made_way_for_until_the_upload_s_timeout(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int, bool]] = []

    now = time.monotonic()

    def slow(_: int, offset: int, size: int, *, wait: bool = False) -> None:
        nonlocal now
        sent.append((offset, size, wait))
        now += 0.06

    monkeypatch.setattr(posix, "write_back", slow)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    storage._commits = True
    batch, piece = 1 << 20, 128 << 10
    with storage.stage(batch) as staged:
        staged.write(bytes(batch), piece)
        assert staged.read_back(batch) == bytes(batch)

    assert sent == [(0, piece, True), (piece, piece, True), (2 * piece, batch - 2 * piece, False)]


def test_one_upload_at_a_time_sends_its_piece_to_the_disk_that_others_wait_for(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = threading.Lock()
    met: list[bool] = []

    def watched(*_: object, **__: object) -> None:
        met.append(not alone.acquire(blocking=False))
        time.sleep(0.002)
        if not met[-1]:
            alone.release()

    monkeypatch.setattr(posix, "write_back", watched)
    monkeypatch.setattr(staging, "_GENTLE", 30.0)
    storage._commits = True
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        uploads = [stack.enter_context(storage.stage(1 << 20)) for _ in range(3)]
        list(pool.map(lambda staged: staged.write(bytes(1 << 20), 256 << 10), uploads))

    assert len(met) == 3 * 4
    assert not any(met)


@pytest.mark.parametrize("piece", [0, 256 << 10], ids=["far ahead", "piece by piece"])
def test_bytes_that_are_lost_on_their_way_are_told(
    storage: Directory, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(posix, "_check", lost)
    storage._commits = True
    with storage.stage(1 << 20) as staged, pytest.raises(StorageError) as failure:
        staged.write(bytes(1 << 20), piece)

    assert failure.value.unwritable


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOENT], ids=errno.errorcode.__getitem__)
def test_an_fsync_that_fails_is_told_and_nothing_is_published(
    storage: Directory, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with storage.stage(6) as staged:
        staged.write(CONTENT)
        break_disk(monkeypatch, "fsync", storage.root, code)
        with pytest.raises(StorageError) as failure:
            staged.sync()

    assert failure.value.describe() == f"{storage.root}: fsync: {os.strerror(code)}"
    assert failure.value.unwritable  # whatever the disk says: it is no matter of a name
    assert not blobs(storage)
    assert not temporaries(storage)


def test_a_replica_that_has_just_come_is_confirmed_with_each_directory_on_its_way_and_an_old_one_is_not(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made it may have been killed before he had synced that."""
    path = place(storage, CONTENT)
    steps = Steps(storage, monkeypatch)
    storage.confirm(BLOB)
    way = [path, *path.parents[:3], Path(storage.root)]
    assert steps.taken == [("fsync", os.path.relpath(each, storage.root)) for each in way]

    steps.taken.clear()
    later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    storage.confirm(BLOB)
    assert steps.taken == []


def test_what_a_disk_has_lost_for_lack_of_room_when_it_is_confirmed_takes_it_out_for_writes(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another time there is no room for what is new; here something is gone that was there."""
    place(storage, CONTENT)
    break_disk(monkeypatch, "fsync", storage.root, errno.ENOSPC)
    with pytest.raises(StorageFull) as failure:
        storage.confirm(BLOB)
    assert failure.value.unwritable


# Quarantine


def found(storage: Directory) -> Fingerprint:
    """What a survey tells of the replica that is there."""
    replica = storage.open(BLOB)
    assert replica is not None
    with replica:
        return replica.fingerprint


def test_a_bad_replica_is_kept_in_quarantine_when_it_is_replaced(storage: Directory) -> None:
    place(storage, b"rotten", BLOB)
    with storage.stage(6) as staged:
        staged.write(CONTENT)
        staged.sync()
        staged.set_aside(BLOB, found(storage))
        assert where(storage, BLOB).read_bytes() == b"rotten"
        staged.publish(BLOB)
    (kept,) = beside(storage, "quarantine")

    assert blobs(storage) == [CONTENT]
    assert kept.read_bytes() == b"rotten"
    assert kept.name.startswith(BLOB.hex.upper())


def test_what_is_kept_in_quarantine_is_on_stable_storage_before_it_is_replaced(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(storage, b"rotten", BLOB)
    bad = found(storage)
    with storage.stage(6) as staged:
        staged.write(CONTENT)
        steps = Steps(storage, monkeypatch)
        staged.set_aside(BLOB, bad)
    assert steps.taken == [("fsync", ".stor/quarantine"), ("fsync", ".stor")]


def test_a_bad_replica_is_kept_though_somebody_has_removed_the_quarantine(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(storage, b"rotten", BLOB)
    Path(storage.root, tree.QUARANTINE).rmdir()
    steps = Steps(storage, monkeypatch)
    with storage.stage(6) as staged:
        staged.set_aside(BLOB, found(storage))
    (kept,) = beside(storage, "quarantine")

    assert kept.read_bytes() == b"rotten"
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert ("fsync", ".stor") in steps.taken


def test_a_bad_replica_that_cannot_be_kept_is_not_replaced(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    place(storage, b"rotten", BLOB)
    Path(storage.root, tree.QUARANTINE).rmdir()
    monkeypatch.setattr(os, "mkdir", lambda *_, **__: None)
    with storage.stage(6) as staged, pytest.raises(StorageError):
        staged.set_aside(BLOB, found(storage))


def test_two_bad_replicas_of_one_blob_are_both_kept(storage: Directory) -> None:
    for rotten in (b"one", b"two"):
        place(storage, rotten, BLOB)
        with storage.stage(6) as staged:
            staged.set_aside(BLOB, found(storage))
        where(storage, BLOB).unlink()

    assert {path.read_bytes() for path in beside(storage, "quarantine")} == {b"one", b"two"}


@pytest.mark.parametrize("bad", [None, (1, 2, 3, 4, 5)])
def test_what_is_gone_already_needs_no_quarantine(storage: Directory, bad: Fingerprint | None) -> None:
    with storage.stage(6) as staged:
        staged.set_aside(BLOB, bad)

    assert not beside(storage, "quarantine")


@pytest.mark.parametrize("opened", [True, False], ids=["that was opened", "that could not be opened"])
@pytest.mark.parametrize("late", [False, True], ids=["before it is looked at", "while it is kept"])
def test_what_another_upload_has_put_in_the_place_of_a_bad_replica_is_not_kept(
    storage: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, opened: bool, late: bool
) -> None:
    path = place(storage, b"rotten", BLOB)
    bad = found(storage) if opened else None
    if not opened:
        path.unlink()
        path.symlink_to("/nowhere")
    link = os.link

    def replaced_first(*arguments: Any, **options: Any) -> None:
        publish(storage, CONTENT)
        link(*arguments, **options)

    with storage.stage(6) as staged:
        if late:
            monkeypatch.setattr(os, "link", replaced_first)
        else:
            publish(storage, CONTENT)
        staged.set_aside(BLOB, bad)

    assert not beside(storage, "quarantine")
    assert blobs(storage) == [CONTENT]
    assert not descriptors(tmp_path)


# Room


def test_a_full_disk_is_told_and_its_room_is_free_again(mounts: Mounts) -> None:
    storage = adopted(mounts.tmpfs(4 << 20))
    free = storage.check().free
    with storage.stage(0) as staged, pytest.raises(StorageFull):
        staged.write(bytes(8 << 20))
    with pytest.raises(StorageFull):
        storage.stage(8 << 20)

    assert storage.check().free == free
    assert not temporaries(storage)


def test_a_disk_without_inodes_is_full(mounts: Mounts) -> None:
    storage = adopted(mounts.tmpfs(4 << 20, inodes=16))

    def publish_many() -> None:
        for number in range(16):
            publish(storage, b"%d" % number)

    with pytest.raises(StorageFull):
        publish_many()

    assert not temporaries(storage)


def test_room_is_reserved_before_the_first_byte_and_among_uploads(mounts: Mounts) -> None:
    storage = adopted(mounts.tmpfs(8 << 20))
    with storage.stage(5 << 20) as staged:
        assert temporaries(storage)[0].stat().st_size == 0
        with pytest.raises(StorageFull):
            storage.stage(5 << 20)
        staged.write(bytes(5 << 20))

    assert not temporaries(storage)


def test_who_has_a_lock_on_the_root_keeps_no_upload_waiting(storage: Directory) -> None:
    """As `flock /mnt/data1 rsync …` has."""
    locked = os.open(storage.root, os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_EX)
    uploading = threading.Thread(target=publish, args=(storage, bytes(2 << 20)), daemon=True)
    try:
        uploading.start()
        uploading.join(5)
        assert not uploading.is_alive()
    finally:
        os.close(locked)
    assert blobs(storage) == [bytes(2 << 20)]


def test_large_uploads_are_promised_their_room_one_after_the_other(storage: Directory) -> None:
    locked = os.open(Path(storage.root, HOME), os.O_RDONLY)  # as another worker has it meanwhile
    fcntl.flock(locked, fcntl.LOCK_EX)
    uploading = threading.Thread(target=publish, args=(storage, bytes(2 << 20)), daemon=True)
    try:
        uploading.start()
        uploading.join(0.1)
        assert uploading.is_alive()
        assert not temporaries(storage)
    finally:
        os.close(locked)
    uploading.join(10)
    assert blobs(storage) == [bytes(2 << 20)]


def test_room_that_is_not_there_when_it_is_reserved_leaves_nothing(
    storage: Directory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(posix, "reserve", refuse)
    with pytest.raises(StorageFull):
        storage.stage(2 << 20)
    assert not temporaries(storage)
    assert not descriptors(tmp_path)


@pytest.mark.parametrize("of", ["a storage", "a directory that is none yet"])
def test_a_disk_that_gives_back_something_else_than_was_written_fails_its_probe(
    storage: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    monkeypatch.setattr(os, "pread", lambda _, size, __: bytes(size))
    probe = storage.probe if of == "a storage" else Directory(str(tmp_path)).try_out
    with pytest.raises(StorageError) as failure:
        probe()
    assert failure.value.reason == "gives back something else than was written"
    assert not temporaries(storage)


def test_what_a_probe_leaves_that_is_killed_is_in_the_way_of_no_other(storage: Directory) -> None:
    Path(storage.root, ".stor", "tmp", "tried").mkdir()
    storage.probe()
    assert not temporaries(storage)


def test_the_reserve_stays_free(mounts: Mounts) -> None:
    storage = adopted(mounts.tmpfs(8 << 20), reserve=4 << 20)
    storage.stage(3 << 20).discard()

    for size in (5 << 20, 6 << 20):
        with pytest.raises(StorageFull):
            storage.stage(size)
    publish(storage, bytes(3 << 20))
    with pytest.raises(StorageFull, match=r"No room is left on a storage"):
        storage.stage(1 << 20)
    assert storage.left(storage.check()) < 1 << 20


def test_room_for_what_comes_of_a_blob_of_unknown_length_is_reserved_before_it_is_written(
    mounts: Mounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others, who measure while it is written, do not count on it."""
    storage = adopted(mounts.tmpfs(8 << 20))
    before = storage.check().free
    free = []
    real = StagedFile._append

    def append(staged: StagedFile, view: memoryview) -> None:
        free.append(storage.check().free)
        real(staged, view)

    monkeypatch.setattr(StagedFile, "_append", append)
    with storage.stage(0) as staged:
        for _ in range(2):
            staged.write(bytes(1 << 20))
    assert [before - each for each in free] == [1 << 20, 2 << 20]


def test_the_reserve_is_one_percent_and_no_more_than_64_mib(tmp_path: Path) -> None:
    storage = Directory(str(tmp_path))

    assert storage.left(Space(1_000_000, 500_000)) == 490_000
    assert storage.left(Space(10**12, 10**11)) == 10**11 - (64 << 20)
    assert Directory(str(tmp_path), reserve=7).left(Space(10**12, 5)) == -2


def test_a_file_over_the_limit_of_the_process_is_a_lack_of_room(storage: Directory) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with storage.stage(0) as staged:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
        try:
            with pytest.raises(StorageFull):
                staged.write(bytes(65537))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_filesystem_that_cannot_reserve_is_written_to_without(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posix, "_fallocate", lambda *_: -1)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EOPNOTSUPP)
    publish(storage, bytes(2 << 20))

    assert blobs(storage) == [bytes(2 << 20)]


def test_a_lost_directory_of_temporaries_is_made_again(storage: Directory) -> None:
    Path(storage.root, TEMPORARIES).rmdir()
    publish(storage, CONTENT)

    assert blobs(storage) == [CONTENT]


def test_a_file_in_the_way_of_a_directory_is_a_failure_that_leaves_nothing(storage: Directory) -> None:
    Path(storage.root, BLOB.path[:2]).write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        publish(storage, CONTENT)

    assert not caught.value.unwritable
    assert not temporaries(storage)


def test_a_file_in_the_way_of_a_directory_is_in_the_way_of_its_own_blobs_only(
    storage: Directory, shared: OpenDirectory
) -> None:
    Path(storage.root, BLOB.path[:2]).write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        shared.make_way(BLOB)

    assert not caught.value.unwritable


def test_a_link_that_leads_nowhere_in_the_place_of_a_directory_is_in_the_way_of_its_own_blobs_only(
    storage: Directory, shared: OpenDirectory
) -> None:
    Path(storage.root, BLOB.path[:2]).symlink_to("/a disk that is away")
    with pytest.raises(StorageError) as caught:
        shared.make_way(BLOB)
    assert not caught.value.unwritable
    with pytest.raises(StorageError) as caught:
        publish(storage, CONTENT)
    assert (caught.value.reason, caught.value.unwritable) == ("No such file or directory", False)
    assert not temporaries(storage)


@pytest.mark.parametrize("code", [errno.EUCLEAN, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("everywhere", [False, True], ids=["one directory", "the disk"])
def test_a_directory_that_fails_is_no_failure_of_the_storage_unless_nothing_else_can_be_written_there(
    storage: Directory, shared: OpenDirectory, monkeypatch: pytest.MonkeyPatch, code: int, *, everywhere: bool
) -> None:
    real, there = os.mkdir, BLOB.path[:2]
    (Path(storage.root) / there).mkdir()

    def mkdir(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if everywhere or path.startswith(f"{there}/"):
            raise OSError(code, os.strerror(code))
        real(path, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(StorageError) as caught:
        shared.make_way(BLOB)
    assert caught.value.unwritable is everywhere
    with pytest.raises(StorageError) as caught:
        publish(storage, CONTENT)
    assert caught.value.unwritable is everywhere
    assert not temporaries(storage)


def test_a_directory_that_cannot_be_synced_is_a_failure_of_the_storage(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_disk(monkeypatch, "fsync", f"{storage.root}/{BLOB.path[:2]}")
    with pytest.raises(StorageError) as caught:
        publish(storage, CONTENT)

    assert caught.value.unwritable


@pytest.mark.parametrize("shared", [False, True])
def test_a_link_to_another_filesystem_is_in_the_way_of_its_own_blobs_only(
    storage: Directory, mounts: Mounts, *, shared: bool
) -> None:
    storage._commits = shared
    Path(storage.root, BLOB.path[:2]).symlink_to(mounts.tmpfs(1 << 20))
    with storage.open_for_writing() as opened, opened.stage(6, shared=shared) as staged:
        staged.write(CONTENT)
        staged.sync()
        with pytest.raises(StorageError) as caught:
            staged.publish(BLOB)

    assert caught.value.reason == "Invalid cross-device link"
    assert not caught.value.unwritable
    place(storage, b"a bad one", BLOB)
    with storage.stage(6) as staged, pytest.raises(StorageError) as caught:
        staged.set_aside(BLOB, found(storage))
    assert not caught.value.unwritable


def test_a_process_without_descriptors_says_nothing_of_the_storage(storage: Directory) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))  # for the root, and none for the temporary
    try:
        with pytest.raises(StorageError, match="storage failed") as caught:
            storage.stage(6)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert caught.value.reason == "Too many open files"
    assert caught.value.operation == "create a temporary file"
    assert not caught.value.unwritable


def test_a_storage_whose_own_directories_take_nothing_takes_no_writes(storage: Directory) -> None:
    in_the_way(storage, TEMPORARIES)
    with pytest.raises(StorageError) as caught:
        storage.stage(6)

    assert caught.value.unwritable


@pytest.mark.parametrize("error", ["EIO", "EACCES"])
def test_a_storage_that_takes_files_and_no_directories_takes_no_writes_until_it_does(
    tmp_path: Path, error: str
) -> None:
    with closing(FaultyStorage(tmp_path)) as faulty:
        storage = adopted(faulty.point)
        with faulty.failing(Fault(("mkdir",), error=error)):
            with storage.stage(6) as staged, pytest.raises(StorageError) as refused:
                staged.publish(BLOB)
            with pytest.raises(StorageError) as probed:
                storage.probe()
        storage.probe()

    assert refused.value.unwritable
    assert probed.value.unwritable
    assert not probed.value.dead


# Sweeping

WRITER = """
import sys
from pystor.directory import Directory
from pystor.open_directory import OpenDirectory
storage = Directory(sys.argv[1], reserve=0)
storage.attach()
staged = storage.stage(6)
staged.write(b"a bl")
print("written", flush=True)
sys.stdin.read()
"""


def start_writer(storage: Directory) -> subprocess.Popen[bytes]:
    """Another process in the middle of an upload."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, storage.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"written\n"
    return writer


def end(writer: subprocess.Popen[bytes]) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.communicate()


@pytest.mark.parametrize("days", [-400, 0, 400])
def test_temporaries_of_the_dead_are_swept_and_never_those_of_the_living(storage: Directory, days: int) -> None:
    dead, living = start_writer(storage), start_writer(storage)
    try:
        with storage.stage(6) as ours:
            ours.write(CONTENT)
            assert len(temporaries(storage)) == 3
            end(dead)
            for path in temporaries(storage):
                os.utime(path, (time.time() + days * 86400,) * 2)

            assert storage.sweep() == 1
            assert len(temporaries(storage)) == 2
            assert storage.sweep() == 0
            ours.sync()
            ours.publish(BLOB)
        end(living)
        assert storage.sweep() == 1
    finally:
        for writer in (dead, living):
            end(writer)

    assert not temporaries(storage)
    assert blobs(storage) == [CONTENT]


def test_a_sweep_of_a_storage_that_is_gone_is_a_failure(storage: Directory) -> None:
    Path(storage.root, TEMPORARIES).rmdir()
    with pytest.raises(StorageError, match="A storage failed"):
        storage.sweep()


def test_odd_things_among_the_temporaries_do_not_keep_the_others_from_being_swept(storage: Directory) -> None:
    directory = Path(storage.root, TEMPORARIES)
    (directory / "directory").mkdir()
    (directory / "link").symlink_to("nowhere")
    os.mkfifo(directory / "fifo")
    for number in range(20):
        (directory / f"{number:032x}").write_bytes(b"left")
    storage.sweep()

    assert not [path for path in temporaries(storage) if path.is_file()]


def test_where_locks_are_unknown_only_age_tells(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unknown)
    directory = Path(storage.root, TEMPORARIES)
    (directory / "young").write_bytes(b"")
    (directory / "copy").write_bytes(b"")
    os.utime(directory / "copy", (time.time() - 8 * 86400,) * 2)  # as a replica has it that is a copy of an old one
    assert storage.sweep() == 0

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 8 * 86400)
    assert storage.sweep() == 2
    publish(storage, CONTENT)
    assert blobs(storage) == [CONTENT]


def test_a_replica_is_of_another_time_than_now_where_the_filesystem_can_do_that(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    path = Path(storage.root, BLOB.path)
    for attempt in range(2):
        with storage.stage(6) as staged:
            staged.write(CONTENT)
            staged.date(1_234_567_890_123_456_789)
            staged.sync()
            staged.publish(BLOB)
        assert (path.stat().st_mtime_ns == 1_234_567_890_123_456_789) == (attempt == 0)
        monkeypatch.setattr(os, "utime", refuse)


def test_what_vanishes_during_a_sweep_is_no_failure(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Path(storage.root, TEMPORARIES)
    (directory / "left").write_bytes(b"")
    monkeypatch.setattr(os, "listdir", lambda _: ["gone", "left"])
    real = os.unlink

    def late(path: str, **named: Any) -> None:
        real(path, **named)
        raise FileNotFoundError

    monkeypatch.setattr(os, "unlink", late)
    assert storage.sweep() == 0


def test_a_sweep_before_the_lock_is_noticed_and_another_file_is_made(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    swept: list[str] = []

    def swept_first(fd: int, operation: int) -> None:
        if not swept:
            swept.append(path_of(fd))
            os.unlink(swept[0])
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", swept_first)
    publish(storage, CONTENT)

    assert swept
    assert blobs(storage) == [CONTENT]


def test_a_sweep_before_the_lock_is_noticed_where_the_filesystem_calls_the_file_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(FaultyStorage(tmp_path)) as faulty:
        storage, real = adopted(faulty.point), fcntl.flock
        swept: list[int] = []

        def swept_first(fd: int, operation: int) -> None:
            if not swept:
                monkeypatch.setattr(fcntl, "flock", real)
                swept.append(storage.sweep())
            real(fd, operation)

        monkeypatch.setattr(fcntl, "flock", swept_first)
        publish(storage, CONTENT)

        assert swept == [1]
        assert blobs(storage) == [CONTENT]
        assert not descriptors(faulty.point)


def test_a_temporary_that_cannot_be_looked_at_is_left_to_the_sweep(
    storage: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fstat

    def fail(fd: int) -> os.stat_result:
        if path_of(fd).startswith(os.path.join(storage.root, TEMPORARIES)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fail)
        with pytest.raises(StorageError):
            storage.stage(6)

    assert not descriptors(tmp_path)
    assert storage.sweep() == 1


def test_a_sweep_in_the_middle_of_the_lock_is_noticed_too(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    # The sweep has the lock already, and is about to remove the file.
    real = fcntl.flock
    sweeping: list[tuple[int, str]] = []

    def sweep_is_ahead(fd: int, operation: int) -> None:
        if not sweeping:
            sweeping.append((os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), path_of(fd)))
            real(sweeping[0][0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_is_ahead)
    with storage.stage(6) as staged:
        ((sweep_fd, swept),) = sweeping
        if os.path.exists(swept):
            os.unlink(swept)
        os.close(sweep_fd)
        staged.write(CONTENT)
        staged.sync()
        staged.publish(BLOB)

    assert blobs(storage) == [CONTENT]


# Repairs


def test_a_wish_for_repair_is_kept(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(storage, monkeypatch)
    storage.enqueue("repair", BLOB)
    storage.enqueue("repair", BLOB)

    assert [path.name for path in beside(storage, "repair")] == [BLOB.hex.upper()]
    assert ("fsync", ".stor/repair") in steps.taken


@pytest.mark.parametrize("queue", ["repair", "mirror"])
def test_a_queue_that_somebody_has_removed_is_made_again(
    storage: Directory, monkeypatch: pytest.MonkeyPatch, queue: QueueName
) -> None:
    directory = Path(storage.root, ".stor", queue)
    directory.rmdir()
    steps = Steps(storage, monkeypatch)
    storage.enqueue(queue, BLOB)
    assert ("fsync", ".stor") in steps.taken
    assert storage.pending(queue, 10) == [BLOB]

    for path in (directory / BLOB.hex.upper(), directory):
        path.unlink() if path.is_file() else path.rmdir()
    assert storage.pending(queue, 10) == []
    turn = storage.take_turn(queue)
    assert turn is not None
    turn.close()


def test_a_wish_that_somebody_made_anew_in_the_moment_in_which_it_is_forgotten_is_kept(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.enqueue("repair", BLOB)
    (entry,) = beside(storage, "repair")
    flock = fcntl.flock

    def replaced_first(fd: int, how: int) -> None:
        entry.unlink()
        entry.touch()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", replaced_first)
    storage.dequeue("repair", BLOB, time.time() + 1)
    assert storage.pending("repair", 10) == [BLOB]


def test_a_name_that_no_entry_has_is_somebody_elses_file_and_is_not_worked_off_for_ever(storage: Directory) -> None:
    storage.enqueue("repair", BLOB)
    (entry,) = beside(storage, "repair")
    entry.rename(entry.with_name(BLOB.hex.title()))
    assert storage.pending("repair", 10) == []


def link_to_nowhere(name: str) -> None:
    os.symlink(f"{name}-elsewhere", name)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, link_to_nowhere])
def test_what_is_no_file_among_the_wishes_is_none_of_them_and_keeps_nobody_waiting(
    storage: Directory, make: Callable[[str], None]
) -> None:
    make(f"{storage.root}/.stor/repair/{BLOB.hex.upper()}")

    assert storage.pending("repair", 10) == []
    with pytest.raises(StorageError):
        storage.enqueue("repair", BLOB)
    assert [path.name for path in beside(storage, "repair")] == [BLOB.hex.upper()]


def test_a_wish_for_repair_that_cannot_be_kept_is_a_failure(storage: Directory) -> None:
    in_the_way(storage, ".stor/repair")

    with pytest.raises(StorageError):
        storage.enqueue("repair", BLOB)


# Without a name


@pytest.fixture
def shared(storage: Directory) -> Iterator[OpenDirectory]:
    """A way into the storage whose uploads leave their syncs to those of the whole filesystem."""
    storage.attach()
    storage._commits = True
    with storage.open_for_writing() as opened:
        yield opened


def test_what_is_synced_with_the_whole_filesystem_has_no_name_before_its_final_one(
    storage: Directory, shared: OpenDirectory
) -> None:
    with shared.stage(6, shared=True) as staged:
        staged.write(CONTENT)
        staged.sync()
        assert temporaries(storage) == []
        staged.publish(BLOB)
    assert blobs(storage) == [CONTENT]
    assert stat.S_IMODE(where(storage, BLOB).stat().st_mode) == 0o644


def test_what_is_synced_alone_has_a_temporary_name(storage: Directory, shared: OpenDirectory) -> None:
    """An fsync of the directory is all that follows; that the file is to stay must be on the disk by then."""
    with shared.stage(6):
        assert len(temporaries(storage)) == 1
    storage._commits = False
    with storage.open_for_writing() as opened, opened.stage(6, shared=True):
        assert len(temporaries(storage)) == 1


def test_a_way_is_made_for_a_new_blob_and_nothing_is_there(storage: Directory, shared: OpenDirectory) -> None:
    leaf = where(storage, BLOB).parent
    assert shared.make_way(BLOB)
    assert leaf.is_dir()
    assert shared.make_way(BLOB)
    leaf.rmdir()
    assert shared.make_way(BLOB)
    assert leaf.is_dir()


@pytest.mark.parametrize("what", ["a blob", "a bad one", "a directory", "a dangling link"])
def test_there_is_no_way_where_something_has_the_name(storage: Directory, shared: OpenDirectory, what: str) -> None:
    there = place(storage, CONTENT if what == "a blob" else b"bad", BLOB)
    if what not in ("a blob", "a bad one"):
        there.unlink()
        there.mkdir() if what == "a directory" else there.symlink_to("nowhere")
    assert not shared.make_way(BLOB)


def test_no_directory_is_made_where_there_is_no_room(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.attach()
    monkeypatch.setattr(Directory, "left", lambda *_: -1)
    with storage.open_for_writing() as opened, pytest.raises(StorageFull):
        opened.make_way(BLOB)
    assert not (Path(storage.root) / BLOB.path[:2]).exists()


def test_a_directory_that_cannot_be_made_is_a_failure_of_the_storage(
    shared: OpenDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mkdir(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(StorageError, match="storage failed") as caught:
        shared.make_way(BLOB)
    assert caught.value.unwritable


def test_the_root_that_is_gone_is_no_reason_to_make_directories_for_ever(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    root.rmdir()
    try:
        with pytest.raises(FileNotFoundError):
            tree.make_directory(BLOB.leaf, fd, set())
    finally:
        os.close(fd)


def test_what_has_no_name_replaces_what_stands_under_its_final_one(storage: Directory, shared: OpenDirectory) -> None:
    place(storage, b"bad", BLOB)
    with shared.stage(6, shared=True) as staged:
        staged.write(CONTENT)
        staged.sync()
        staged.publish(BLOB)
    assert blobs(storage) == [CONTENT]
    assert temporaries(storage) == []


def test_what_is_about_to_replace_is_not_swept(
    storage: Directory, shared: OpenDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def late(*given: Any, **named: Any) -> None:
        assert storage.sweep() == 0
        real(*given, **named)

    place(storage, b"bad", BLOB)
    monkeypatch.setattr(os, "rename", late)
    with shared.stage(6, shared=True) as staged:
        staged.write(CONTENT)
        staged.publish(BLOB)
    assert blobs(storage) == [CONTENT]


def test_what_has_no_name_and_cannot_replace_leaves_nothing(storage: Directory, shared: OpenDirectory) -> None:
    (where(storage, BLOB) / "a directory").mkdir(parents=True)
    with shared.stage(6, shared=True) as staged, pytest.raises(StorageError):
        staged.publish(BLOB)
    assert temporaries(storage) == []


def test_what_has_no_name_and_was_given_up_gets_none(storage: Directory, shared: OpenDirectory) -> None:
    staged = shared.stage(6, shared=True)
    staged.discard()
    with pytest.raises(StorageError):
        staged.publish(BLOB)
    assert blobs(storage) == []


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def test_a_filesystem_without_unnamed_files_gets_named_ones(
    storage: Directory, shared: OpenDirectory, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.open

    def refused(path: str, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", refused)
    with shared.stage(6, shared=True) as staged:
        assert len(temporaries(storage)) == 1
        staged.write(CONTENT)
        staged.sync()
        staged.publish(BLOB)
    assert blobs(storage) == [CONTENT]


def test_a_disk_that_fails_to_make_an_unnamed_file_is_told(
    shared: OpenDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "open", broken)
    with pytest.raises(StorageError):
        shared.stage(6, shared=True)


def test_a_staged_replica_that_cannot_be_made_gives_its_descriptors_back(storage: Directory, tmp_path: Path) -> None:
    in_the_way(storage, TEMPORARIES)
    root_fd = os.open(storage.root, os.O_RDONLY)
    with pytest.raises(StorageError):
        StagedFile(Root(storage.root, root_fd, durable=True))

    assert not descriptors(tmp_path)


def test_a_filesystem_without_a_free_inode_takes_changes_where_it_has_room(mounts: Mounts) -> None:
    storage = adopted(mounts.tmpfs(1 << 20, inodes=32))

    def fill() -> None:
        for number in range(32):
            Path(storage.root, f"{number}").touch()

    with pytest.raises(OSError, match="No space left"):
        fill()
    fd = os.open(storage.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert tree.takes_changes(fd)
    finally:
        os.close(fd)
