"""What each storage is taken for at the start: the one that was there, a new one, or an empty mount point."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from pystor import census, maintenance
from pystor.config import Settings
from pystor.directory import Directory
from pystor.errors import ConfigError
from pystor.identity import Seen, judge, refuse_adoption
from pystor.marker import Marker
from pystor.mounts import unmounted
from tests.rooms.tools import adopted
from tests.support.mounts import Mounts

DISK = Marker("1", "a set", own_device=True)
PLAIN = Marker("2", "a set", own_device=False)


def refusals(*sets: Sequence[Seen]) -> dict[str, str | None]:
    """Why each storage is not used; None for those that are, and for those that are new."""
    return {verdict.seen.root: verdict.refusal for verdict in judge(sets)}


def new(*sets: Sequence[Seen]) -> list[str]:
    """The storages that are taken for new ones."""
    return [verdict.seen.root for verdict in judge(sets) if verdict.new]


# The rule


def test_a_set_without_any_marker_is_new() -> None:
    assert new([Seen("/a"), Seen("/b")], [Seen("/c", mounted=True)]) == ["/a", "/b", "/c"]


def test_a_disk_that_takes_no_marker_is_used_and_is_not_new() -> None:
    (verdict,) = judge([[Seen("/a", mounted=True, stands_in=True)]])
    assert (verdict.refusal, verdict.new) == (None, False)


def test_only_a_disk_that_is_mounted_read_only_and_not_to_be_written_to_needs_no_marker(
    mounts: Mounts, tmp_path: Path
) -> None:
    disk = mounts.ext4()
    mounts.remount(disk, "ro")
    storages = [Directory(str(root), writable=writable) for root in (disk, tmp_path) for writable in (False, True)]
    seen = [verdict.seen.stands_in for verdict in census.take([[storage] for storage in storages]).values()]
    assert seen == [True, False, False, False]


def test_what_has_a_marker_is_what_it_was_and_a_new_one_beside_it_is_not_adopted() -> None:
    group = [Seen("/a", PLAIN), Seen("/b")]
    assert new(group) == []
    assert refusals(group) == {"/a": None, "/b": "has no .stor marker, as the others of its set have: " + MEND}


MEND = "mount the disk, or adopt it"


def test_a_directory_that_is_no_mount_is_not_new_where_any_other_storage_is_a_disk() -> None:
    disks = [Seen("/c", DISK, mounted=True), Seen("/d", DISK, mounted=True)]
    told = refusals([Seen("/a"), Seen("/b")], disks)
    assert told["/a"] == (
        "is not mounted, as /c is: mount the disk (or set require_mount to false); if it has no disk, adopt it"
    )
    assert told["/b"] == told["/a"]
    assert new([Seen("/a", mounted=True), Seen("/b", mounted=True)], disks) == ["/a", "/b"]
    assert new([Seen("/a", may_be_plain=True)], disks) == ["/a"]
    assert new([Seen("/a")], [Seen("/c", PLAIN)]) == ["/a"]


def test_a_new_disk_is_not_adopted_beside_one_that_is_missing_or_silent() -> None:
    disks = [Seen("/c", DISK, mounted=True)]
    for doubtful in (Seen("/b"), Seen("/b", fault="no answer")):
        assert new([Seen("/a", mounted=True), doubtful], disks) == []
        assert "/b does not show" in (refusals([Seen("/a", mounted=True), doubtful], disks)["/a"] or "")


def test_a_directory_is_not_new_beside_one_that_shows_nothing() -> None:
    assert new([Seen("/a"), Seen("/b", fault="no answer")]) == []
    assert new([Seen("/a"), Seen("/b")]) == ["/a", "/b"]


def test_a_plain_directory_is_adopted_beside_disks_only_if_one_of_its_set_is_plain_too() -> None:
    disk, plain = Seen("/b", DISK, mounted=True), Seen("/c", PLAIN)
    assert refuse_adoption(Seen("/a"), [disk, plain], []) is None
    assert "is not mounted, as /b is" in (refuse_adoption(Seen("/a"), [disk, Seen("/d")], []) or "")
    assert refuse_adoption(Seen("/a", mounted=True), [disk], []) is None


def test_a_disk_whose_set_nobody_else_is_of_is_adopted_whatever_the_others_are() -> None:
    strangers = [Seen("/b"), Seen("/c", PLAIN), Seen("/d", fault="no answer")]
    own = Seen("/a", Marker("1", "a set that is gone", own_device=False))
    assert refuse_adoption(own, [Seen("/e")], strangers) is None
    assert "is of the replica set of /c" in (refuse_adoption(Seen("/a", PLAIN), [Seen("/e")], strangers) or "")


def test_a_directory_where_the_system_has_a_disk_to_mount_is_not_new() -> None:
    told = refusals([Seen("/a", unmounted="/a"), Seen("/b")])
    assert told["/a"] == "nothing is mounted at /a, which /etc/fstab names: mount it (or set require_mount to false)"
    assert told["/b"] is not None
    assert new([Seen("/a", unmounted="/a", may_be_plain=True)]) == ["/a"]


def marked(root: str, replica_set: str) -> Seen:
    return Seen(root, Marker(root, replica_set, own_device=False))


def test_the_storage_that_differs_from_most_of_its_set_is_not_used() -> None:
    told = refusals([marked("/a", "Y"), marked("/b", "X"), marked("/c", "X")])
    assert told.pop("/a") == (
        "is of another replica set than /b: mount the right disk, or remove its .stor/storage.json and adopt it"
    )
    assert set(told.values()) == {None}
    told = refusals([Seen("/a"), marked("/b", "Y"), marked("/c", "X"), marked("/d", "X")])
    assert "than /c: mount the right disk" in (told["/b"] or "")


def test_of_two_storages_that_differ_the_one_that_belongs_to_another_set_is_not_used() -> None:
    told = refusals([marked("/a", "Y"), marked("/b", "X")], [Seen("/c", fault="gone"), marked("/d", "Y")])
    assert [root for root, refusal in told.items() if refusal] == ["/a", "/c"]


def test_where_the_disks_of_two_sets_changed_places_one_of_each_is_used() -> None:
    told = refusals([marked("/a", "X"), marked("/b", "Y")], [marked("/c", "X"), marked("/d", "Y")])
    assert [root for root, refusal in told.items() if refusal] == ["/b", "/c"]


def test_sets_whose_storages_agree_are_used_though_both_were_one_set_before() -> None:
    told = refusals([marked("/a", "X"), marked("/b", "X")], [marked("/c", "X"), marked("/d", "X")])
    assert set(told.values()) == {None}


def test_a_disk_of_another_set_is_not_adopted_and_nothing_is_said_to_be_done(tmp_path: Path) -> None:
    places = {name: adopted(tmp_path / name, replica_set) for name, replica_set in zip("abcd", "XYYY", strict=True)}
    roots = {name: Path(storage.root) for name, storage in places.items()}
    settings = Settings(storage_pairs=((roots["a"], roots["b"]), (roots["c"], roots["d"])))
    with pytest.raises(ConfigError, match=f"b: is of another replica set than {roots['a']}: mount the right disk"):
        maintenance.adopt(settings, roots["b"])
    (roots["a"] / ".stor/storage.json").unlink()
    with pytest.raises(ConfigError, match=f"b: is of the replica set of {roots['c']}: mount the right disk"):
        maintenance.adopt(settings, roots["b"])
    (roots["b"] / ".stor/storage.json").unlink()
    for name in "ba":
        maintenance.adopt(settings, roots[name])
    assert places["a"].look() != places["b"].look()
    assert set(refusals_of(settings).values()) == {None}


def refusals_of(settings: Settings) -> dict[str, str | None]:
    sets = [[Directory(str(place)) for place in pair] for pair in settings.storage_pairs]
    return {storage.root: verdict.refusal for storage, verdict in census.take(sets).items()}


# The look


def test_the_systems_table_tells_where_a_disk_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "fstab"
    monkeypatch.setattr("pystor.mounts.FSTAB", str(table))
    a, b = tmp_path / "a b" / "data", tmp_path / "b"
    for directory in (a, b):
        directory.mkdir(parents=True)
    assert unmounted(str(a)) is None
    table.mkdir()  # one that cannot be read
    assert unmounted(str(a)) is None
    table.rmdir()
    escaped = str(a.parent).replace(" ", "\\040")
    table.write_text(f"# {b} {b}\n\nUUID=1 {escaped}/ ext4 defaults 0 2\nUUID=2 none swap sw 0 0\n/dev/x / ext4\n")

    assert unmounted(str(a)) == str(a.parent)
    assert unmounted(str(b)) is None
    settings = Settings(storage_pairs=((a,), (b,)))
    with pytest.raises(ConfigError, match=r"which .* names: mount it"):
        maintenance.adopt(settings, a)
    prepared = maintenance.prepare(settings)
    assert prepared.adopted == [str(b)]
    assert prepared.unusable == [
        f"{a}: nothing is mounted at {a.parent}, which /etc/fstab names: mount it (or set require_mount to false)"
    ]
    assert list(a.iterdir()) == []
    assert maintenance.prepare(Settings(storage_pairs=((a,), (b,)), require_mount=False)).adopted == [str(a)]


class Hanging(Directory):
    """A storage that shows nothing before it is told to."""

    healed: threading.Event

    def look(self) -> Marker | None:
        self.healed.wait(10)
        return super().look()


def test_a_storage_that_hangs_is_not_waited_for_and_the_others_are_seen(tmp_path: Path) -> None:
    good, new_one = adopted(tmp_path / "a"), tmp_path / "c"
    new_one.mkdir()
    hanging = Hanging(str(tmp_path / "b"))
    hanging.healed = threading.Event()
    try:
        verdicts = census.take([[good, hanging], [Directory(str(new_one))]], timeout=1)
    finally:
        hanging.healed.set()
    assert [verdict.refusal for verdict in verdicts.values()] == [None, "no answer within 1 s", None]
    assert [verdict.new for verdict in verdicts.values()] == [False, False, True]


def test_what_cannot_be_looked_at_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/.stor").write_bytes(b"")
    prepared = maintenance.prepare(Settings(storage_pairs=((tmp_path / "a", tmp_path / "b"),)))
    assert prepared.adopted == []
    assert prepared.unusable == [
        f"{tmp_path}/a: Not a directory: move away what is in the place of a directory",
        f"{tmp_path}/b: No such file or directory: make the directory, or mount the disk",
    ]
