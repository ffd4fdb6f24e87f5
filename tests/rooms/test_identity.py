"""What tells a storage from an empty mount point, and one disk from another."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pystor import files, marker, wiring
from pystor.config import Settings
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError
from pystor.marker import Homes, Marker
from pystor.mounts import filesystem_of, is_local, is_mount
from tests.rooms.tools import adopted, beside, descriptors, path_of, place
from tests.support import needs
from tests.support.mounts import Mounts

BLOB = Digest.of(b"a blob")


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """The storage does not do it, and says why in one line that holds the words."""
    with pytest.raises(StorageError) as failure:
        yield
    line = failure.value.describe()
    assert line.isprintable()
    assert not [word for word in words if word not in line], line


# The marker


def test_a_marker_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Marker(marker.new_id(), "a set", own_device=True)
    marker.write(str(tmp_path), written)

    assert marker.read(str(tmp_path)) == written
    assert os.listdir(tmp_path / ".stor") == ["storage.json"]


def test_a_marker_is_synced_then_named_then_the_directories_on_its_way_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(fd: int) -> None:
        path = path_of(fd)
        steps.append(f"sync {os.path.relpath(path, tmp_path)}")
        if os.path.isfile(path):
            json.loads(Path(path).read_text())  # all of it is there to be synced
        fsync(fd)

    def watched_rename(source: str, target: str, **directories: int) -> None:
        steps.append(f"name {target}")
        rename(source, target, **directories)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    marker.write(str(tmp_path), Marker(marker.new_id(), "a set", own_device=False))

    assert steps[0].startswith("sync .stor/storage.json.")
    assert steps[1:] == ["name storage.json", "sync .stor", "sync ."]


def test_no_marker_is_none(tmp_path: Path) -> None:
    assert marker.read(str(tmp_path)) is None
    assert marker.read(str(tmp_path / "nowhere")) is None


def test_two_storages_never_have_one_identity() -> None:
    assert marker.new_id() != marker.new_id()


DAMAGED = {
    "nothing": b"",
    "half": b'{"id": "a", "repl',
    "zeros": b"\0" * 100,
    "no text": b"\xff\xfe\xfd",
    "a list": b'["id"]',
    "a number": b"5",
    "a text": b'"id"',
    "null": b"null",
    "a field missing": b'{"id": "a\\nb", "replica_set": "b"}',
    "deep": b"[" * 50_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_marker_is_refused_with_a_line_that_names_it(tmp_path: Path, content: bytes) -> None:
    storage = adopted(tmp_path / "a")
    Path(storage.root, ".stor/storage.json").write_bytes(content)

    for again in (storage, Directory(storage.root)):
        with refused(storage.root, "storage.json"):
            again.attach()
        with refused(storage.root, "storage.json"):
            again.adopt("another set")
    assert Path(storage.root, ".stor/storage.json").read_bytes() == content


def test_a_marker_as_long_as_a_disk_is_not_read_into_memory(tmp_path: Path) -> None:
    storage = adopted(tmp_path / "a")
    os.truncate(f"{storage.root}/.stor/storage.json", 1 << 40)

    with refused(storage.root, "storage.json", "damaged"):
        Directory(storage.root).attach()


def test_a_pipe_in_the_place_of_a_marker_keeps_nobody_waiting(tmp_path: Path) -> None:
    storage = adopted(tmp_path / "a")
    marker_file = Path(storage.root, ".stor/storage.json")
    marker_file.unlink()
    os.mkfifo(marker_file)

    with refused(storage.root, "storage.json", "damaged"):
        Directory(storage.root).attach()


def test_a_marker_that_cannot_be_read_is_a_failure_and_not_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / ".stor").write_bytes(b"")

    with refused("attach", "Not a directory"):
        Directory(str(tmp_path)).attach()
    with refused("adopt", "Not a directory"):
        Directory(str(tmp_path)).adopt("a set")


# Directories


def test_a_directory_without_a_marker_is_no_storage(tmp_path: Path) -> None:
    storage = Directory(str(tmp_path))

    for operation in (storage.attach, storage.check, lambda: storage.open(BLOB), lambda: storage.stage(5)):
        with refused(str(tmp_path), "has no .stor marker", "mount the disk"):
            operation()
    for other in (storage.sweep, lambda: storage.enqueue("repair", BLOB)):
        with refused("has no .stor marker"):
            other()
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_there_is_no_storage(tmp_path: Path) -> None:
    storage = Directory(str(tmp_path / "nowhere"))

    for operation in (storage.attach, storage.check, lambda: storage.open(BLOB), lambda: storage.stage(5)):
        with refused("nowhere", "No such file"):
            operation()


def test_an_adopted_directory_is_a_storage_and_stays_the_same_one(tmp_path: Path) -> None:
    storage = Directory(str(tmp_path))
    first = storage.adopt("a set")

    assert first.replica_set == "a set"
    assert not first.own_device
    assert storage.adopt("another set") == first
    assert Directory(str(tmp_path)).attach() == first
    assert storage.open(BLOB) is None
    assert storage.check().total > 0


def test_a_storage_that_is_read_only_gets_no_directory_of_temporaries(tmp_path: Path) -> None:
    adopted(tmp_path, writable=False)

    assert os.listdir(tmp_path / ".stor") == ["storage.json"]


def test_a_plain_directory_is_refused_where_a_mount_is_required(tmp_path: Path) -> None:
    with refused("is not mounted", "require_mount"):
        Directory(str(tmp_path), require_mount=True).adopt("a set")
    assert not list(tmp_path.iterdir())

    adopted(tmp_path)
    with refused("is not mounted"):
        Directory(str(tmp_path), require_mount=True).attach()


def test_a_storage_that_was_a_mount_must_be_one_from_then_on(tmp_path: Path) -> None:
    # As when a disk was copied into the mount point that it is mounted at no more.
    marker.write(str(tmp_path), Marker("an id", "a set", own_device=True))

    with refused("is not mounted"):
        Directory(str(tmp_path)).attach()
    assert Directory(str(tmp_path), require_mount=False).attach().id == "an id"


def test_a_directory_that_was_replaced_by_another_storage_is_refused(tmp_path: Path) -> None:
    storage = adopted(tmp_path / "a")
    other = adopted(tmp_path / "b", "another set")
    place(other, b"a blob")
    Path(storage.root).rename(tmp_path / "away")
    Path(other.root).rename(storage.root)

    for operation in (storage.check, lambda: storage.stage(5), lambda: storage.open(Digest.of(b"another"))):
        with refused("is another storage than before"):
            operation()
    assert not beside(storage, "tmp")


def test_a_disk_that_is_in_two_places_is_one_storage_and_not_two(tmp_path: Path) -> None:
    homes = Homes()
    a, b = (adopted(tmp_path / name, homes=homes) for name in "ab")
    os.rename(b.root, tmp_path / "away")
    os.symlink(a.root, b.root)

    for operation in (b.check, lambda: b.stage(5), lambda: b.open(BLOB)):
        with refused(b.root, f"is the disk that is at {a.root}", "mount the right disk"):
            operation()
    a.check()

    os.unlink(b.root)
    os.rename(tmp_path / "away", b.root)
    b.check()


def test_a_disk_that_has_moved_is_in_one_place_which_is_the_new_one(tmp_path: Path) -> None:
    homes = Homes()
    at, moved, copied = (str(tmp_path / name) for name in "abc")
    Path(at).touch()
    assert homes.claim(at, marker.sign(at)) is None
    os.rename(at, moved)
    assert homes.claim(moved, marker.sign(moved)) is None
    os.link(moved, copied)
    assert homes.claim(copied, marker.sign(copied)) == moved


def test_disks_that_changed_places_within_a_set_are_used_where_they_are(tmp_path: Path) -> None:
    homes = Homes()
    a, b = (adopted(tmp_path / name, homes=homes) for name in "ab")
    for source, target in (("a", "away"), ("b", "a"), ("away", "b")):
        os.rename(tmp_path / source, tmp_path / target)

    for storage in (a, b, a):
        storage.check()


def test_a_directory_that_was_moved_back_is_attached_by_itself(tmp_path: Path) -> None:
    storage = adopted(tmp_path / "a")
    Path(storage.root).rename(tmp_path / "away")
    with refused("No such file"):
        storage.open(BLOB)
    assert storage.open_cached(BLOB) is False
    subprocess.run(["cp", "-a", tmp_path / "away", storage.root], check=True)

    assert storage.open(BLOB) is None


def test_a_storage_that_cannot_be_measured_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = adopted(tmp_path)

    def fail(_: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "statvfs", fail)
    with refused("stat: Input/output error"):
        storage.check()


def test_a_storage_whose_marker_cannot_be_seen_gives_everything_back(tmp_path: Path) -> None:
    storage = adopted(tmp_path / "a")
    Path(storage.root, ".stor").rename(tmp_path / "away")
    Path(storage.root, ".stor").write_bytes(b"")

    for operation in (storage.check, lambda: storage.stage(5), lambda: storage.open(BLOB)):
        with refused("Not a directory"):
            operation()
    assert not descriptors(tmp_path)


def test_nothing_is_written_to_a_disk_that_was_changed_for_the_right_one_in_this_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, other = adopted(tmp_path / "a"), adopted(tmp_path / "b")
    os.rename(storage.root, tmp_path / "away")
    os.rename(other.root, storage.root)
    attach = storage.attach

    def changed_first() -> Marker:
        os.rename(storage.root, other.root)
        os.rename(tmp_path / "away", storage.root)
        return attach()

    monkeypatch.setattr(storage, "attach", changed_first)
    with refused("try again"):
        storage.stage(5)

    assert not beside(other, "tmp")
    assert not descriptors(tmp_path)


# Mounts


def test_a_mount_is_told_from_a_directory(mounts: Mounts, tmp_path: Path) -> None:
    assert is_mount(str(mounts.tmpfs(1 << 20)))
    assert is_mount("/")
    assert not is_mount(str(tmp_path))


def test_a_storage_that_is_unmounted_does_nothing_and_its_mount_point_stays_empty(mounts: Mounts) -> None:
    point = mounts.ext4()
    storage = adopted(point)
    place(storage, b"a blob")
    assert storage.attach().own_device
    mounts.unmount(point)

    for operation in (storage.check, storage.sweep, storage.attach, lambda: storage.enqueue("repair", BLOB)):
        with refused(str(point)):
            operation()
    with refused("has no .stor marker"):
        storage.open(BLOB)
    with refused("has no .stor marker"):
        storage.stage(5)
    assert storage.open_cached(BLOB) is False
    assert not list(point.iterdir())
    assert not descriptors(point)


def test_an_upload_goes_along_with_the_disk_that_is_unmounted_under_it(mounts: Mounts) -> None:
    point = mounts.ext4()
    with adopted(point).stage(6) as staged:
        mounts.unmount(point)
        staged.write(b"a blob")
        staged.sync()
        with refused("another disk was put in its place"):
            staged.publish(BLOB)

        assert not list(point.iterdir())


@pytest.mark.parametrize("shared", [False, True])
def test_a_name_on_a_disk_that_was_replaced_meanwhile_is_a_failure(tmp_path: Path, *, shared: bool) -> None:
    storage, new = adopted(tmp_path / "a"), adopted(tmp_path / "new")
    storage._commits = shared
    with storage.open_for_writing() as opened, opened.stage(6, shared=shared) as staged:
        staged.write(b"a blob")
        os.rename(storage.root, tmp_path / "old")
        os.rename(new.root, storage.root)
        with refused("publish", "another disk was put in its place"):
            staged.publish(BLOB)

    assert not Path(storage.root, BLOB.path).exists()
    assert not descriptors(tmp_path)


def test_a_storage_that_is_mounted_again_is_attached_by_itself(mounts: Mounts, tmp_path: Path) -> None:
    point = mounts.ext4()
    storage = adopted(point)
    place(storage, b"a blob")
    mounts.unmount(point)
    with refused():
        storage.open(BLOB)
    mounts._mount(point, "-t", "ext4", "-o", "loop", str(next(tmp_path.glob("*.ext4"))))

    with storage.stage(5) as staged:
        staged.write(b"12345")
    replica = storage.open(BLOB)
    assert replica is not None
    with replica:
        assert replica.read(0, 6) == b"a blob"


def test_another_disk_in_its_place_is_refused(mounts: Mounts) -> None:
    point = mounts.tmpfs(1 << 20)
    storage = adopted(point)
    mounts.tmpfs(1 << 20, at=point)
    with refused("has no .stor marker"):
        storage.open(BLOB)
    adopted(point, "another set")

    with refused("is another storage than before", "mount the right disk, or send SIGHUP if this is it"):
        storage.open(BLOB)
    with refused("is another storage than before"):
        storage.stage(5)
    assert not beside(storage, "tmp")


def test_a_new_disk_that_was_adopted_for_the_same_set_is_taken_in(mounts: Mounts) -> None:
    point = mounts.tmpfs(1 << 20)
    storage = adopted(point)
    place(storage, b"a blob")
    mounts.tmpfs(1 << 20, at=point)
    adopted(point)

    assert storage.open(BLOB) is None
    storage.stage(5).discard()


def test_another_disk_with_the_number_of_the_one_before_is_refused(mounts: Mounts, tmp_path: Path) -> None:
    # A disk that is changed in its bay gets the same device number, and every ext4 begins at inode 2.
    needs.tool("losetup", "mkfs.ext4")
    point, image = tmp_path / "point", tmp_path / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    device = subprocess.run(
        ["losetup", "-f", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
        mounts._mount(point, device)
        storage = adopted(point)
        before = point.stat()
        subprocess.run(["umount", point], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True)
        mounts._mount(point, device)
        adopted(point, "another set")
        after = point.stat()
        assert (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)

        with refused("is another storage than before"):
            storage.open(BLOB)
        with refused("is another storage than before"):
            storage.stage(5)
        assert storage.open_cached(BLOB) is False
    finally:
        subprocess.run(["umount", "-l", point], check=False)
        subprocess.run(["losetup", "-d", device], check=False)


def test_a_disk_that_is_mounted_read_only_needs_no_marker_where_nothing_is_to_be_written(mounts: Mounts) -> None:
    point = mounts.ext4()
    storage = Directory(str(point), writable=False)
    place(storage, b"a blob")
    with refused("has no .stor marker"):
        storage.attach()
    mounts.remount(point, "ro")

    assert storage.attach().own_device
    storage.probe()
    replica = storage.open(BLOB)
    assert replica is not None
    replica.close()
    assert storage.open(Digest.of(b"another")) is None
    assert storage.open_cached(Digest.of(b"another")) is None
    with refused("has no .stor marker"):
        Directory(str(point)).attach()

    mounts.unmount(point)
    for operation in (storage.check, storage.probe, lambda: storage.open(Digest.of(b"another"))):
        with refused("has no .stor marker"):
            operation()
    assert storage.open_cached(Digest.of(b"another")) is False


def test_a_disk_that_takes_no_marker_is_of_the_set_in_which_it_is_configured(mounts: Mounts) -> None:
    point = mounts.ext4()
    mounts.remount(point, "ro")
    storage = Directory(str(point), writable=False, replica_set="a set of others with markers")
    storage.attach()
    storage.check()


@pytest.mark.parametrize("placed", [True, False])
def test_a_blob_is_not_missing_since_its_disk_was_away_while_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placed: bool
) -> None:
    storage = adopted(tmp_path / "disk")
    if placed:
        place(storage, b"a blob")
    real, looked = files.open_to_read, 0

    def while_away(path: str, how: object) -> object:
        nonlocal looked
        looked += 1
        if looked > 1:
            return real(path, how)
        (tmp_path / "disk").rename(tmp_path / "elsewhere")
        try:
            return real(path, how)
        finally:
            (tmp_path / "elsewhere").rename(tmp_path / "disk")

    monkeypatch.setattr("pystor.directory.open_to_read", while_away)
    replica = storage.open(BLOB)
    assert (replica is not None) is placed
    if replica is not None:
        replica.close()
    assert descriptors(tmp_path) == []


def test_another_disk_in_the_place_of_one_without_a_marker_is_refused(mounts: Mounts) -> None:
    point = mounts.ext4()
    mounts.remount(point, "ro")
    storage = Directory(str(point), writable=False)
    storage.attach()
    mounts.ext4(at=point, options="ro")

    with refused("is another storage than before"):
        storage.open(BLOB)


# Local or not


def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *lines: bytes) -> None:
    """Put another mount table in the place of the machine's."""
    path = tmp_path / "mountinfo"
    path.write_bytes(b"".join(b"1 1 0:1 / %b rw - %b dev rw\n" % tuple(line.split(b" ", 1)) for line in lines))
    monkeypatch.setattr("pystor.mounts.open", lambda _, *a, **k: open(path, *a, **k), raising=False)  # noqa: SIM115


def test_local_is_what_the_mount_table_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table(
        monkeypatch, tmp_path, b"/ ext4", b"/mnt/nfs nfs4", b"/mnt/nfs/disk xfs", b"/mnt/over nfs4", b"/mnt/over tmpfs"
    )

    assert is_local(filesystem_of("/mnt/disk"))
    assert not is_local(filesystem_of("/mnt/nfs"))
    assert not is_local(filesystem_of("/mnt/nfs/b"))
    assert is_local(filesystem_of("/mnt/nfs2"))
    assert is_local(filesystem_of("/mnt/nfs/disk/a"))
    assert is_local(filesystem_of("/mnt/over"))


def test_names_with_spaces_and_letters_past_ascii_are_found_in_the_mount_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table(monkeypatch, tmp_path, b"/ ext4", rb"/mnt/a\040b nfs4", "/mnt/donn\u00e9es nfs4".encode(), b"/mnt/\xff nfs4")

    assert not is_local(filesystem_of("/mnt/a b"))
    assert not is_local(filesystem_of("/mnt/donn\u00e9es"))
    assert not is_local(filesystem_of("/mnt/\udcff"))
    assert is_local(filesystem_of("/mnt/c"))


def test_a_storage_on_this_machine_is_local(tmp_path: Path) -> None:
    storage = adopted(tmp_path)

    assert storage.local == is_local(filesystem_of(str(tmp_path)))
    assert json.loads(Path(tmp_path, ".stor/storage.json").read_text())["own_device"] is False


def test_whoever_knows_better_than_the_mount_table_says_so(tmp_path: Path) -> None:
    settings = Settings(local_storages_regex="/disk[0-9]$")
    local: dict[str, bool] = {}
    for name in ("disk1", "share"):
        root = tmp_path / name
        root.mkdir()
        storage = wiring.directory_of(settings, root)
        storage.adopt("a set")
        local[name] = storage.local
    assert local == {"disk1": True, "share": False}
