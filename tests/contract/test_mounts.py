"""Rule 9: a storage that is not mounted has nothing to say and takes nothing; the others go on."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.contract import disk
from tests.contract.conftest import HouseFactory
from tests.contract.disk import Pair, fresh, place, place_on, settles, sha
from tests.contract.house import House
from tests.contract.test_healing import command
from tests.support import needs
from tests.support.mounts import Mounts
from tests.support.server import Server

MIB: Final = 1 << 20


def pairs_of(mounts: Mounts, count: int = 1) -> list[Pair]:
    return [(mounts.tmpfs(64 * MIB), mounts.tmpfs(64 * MIB)) for _ in range(count)]


def everything_below(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


def check_down(stor: House, storage: Path) -> None:
    answer = stor.ask("GET", "/status")
    assert answer.status == 503
    assert str(storage).encode() in answer.body
    assert answer.headers["content-type"].startswith("text/plain")


class OtherTable:
    """This machine, as it is for who sees another table of what is mounted where."""

    address = "127.0.0.1"

    def __init__(self, table: Path) -> None:
        self._table = table

    def command(self, *words: str) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", f'mount --bind {self._table} /etc/fstab; exec "$@"', "sh", *words]


def test_a_storage_below_a_disk_that_is_not_mounted_keeps_nothing_from_starting_and_is_used_when_it_is(
    mounts: Mounts, tmp_path: Path
) -> None:
    needs.tool("unshare", "nsenter")
    filesystem, point, content = mounts.tmpfs(MIB), tmp_path / "mnt", fresh()
    table = tmp_path / "fstab"
    table.write_text(f"UUID=1 {point} ext4 defaults 0 2\n")
    mounts.bind(filesystem, at=point)
    pair, table_of = [point / "stor", tmp_path / "other"], OtherTable(table)
    server = Server(tmp_path / "server", pairs=[pair], machine=table_of, workers=1)
    with server:
        stor = House(server)
        assert stor.store(content).status == 201
    mounts.unmount(point)
    assert list(point.iterdir()) == []

    with server:
        assert f"stor: warning: storage_pairs[0][0]: '{pair[0]}' is not there: nothing is mounted" in server.stderr
        assert stor.get(content).body == content
        assert stor.get(fresh()).status == 503
        check_down(stor, pair[0])
        done = subprocess.run(
            table_of.command(*stor.command("repair", "--all")), capture_output=True, timeout=60, check=False
        )
        assert b"storages that are away: 1" in done.stderr
        assert list(point.iterdir()) == []
        inside = ["nsenter", "--target", str(server.pid), "--mount", "mount", "--bind", str(filesystem), str(point)]
        subprocess.run(inside, check=True)
        assert settles(lambda: stor.ask("GET", "/status").status == 200)
        assert stor.get(fresh()).status == 404


# Plain directories


def test_plain_directories_in_a_configuration_file_work(make_stor: HouseFactory) -> None:
    stor, content = make_stor(), fresh()

    assert stor.ask("GET", "/status").body == b"OK"
    assert stor.store(content).status == 201
    assert stor.get(content).body == content


class NoTable:
    """This machine, as it is for who has no /proc."""

    address = "127.0.0.1"

    def command(self, *words: str) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc; exec "$@"', "sh", *words]


def test_storages_work_where_no_table_tells_what_is_mounted(mounts: Mounts, tmp_path: Path) -> None:
    needs.tool("unshare")
    content = fresh()
    with Server(tmp_path, pairs=pairs_of(mounts), machine=NoTable(), workers=1) as server:
        stor = House(server)

        assert stor.ask("GET", "/status").body == b"OK"
        assert stor.store(content).status == 201
        assert stor.get(content).body == content
        assert stor.get(fresh()).status == 404
    assert "storage failed" not in server.stderr


def test_a_plain_directory_that_must_be_a_mount_is_503_and_takes_nothing(make_stor: HouseFactory) -> None:
    stor, content = make_stor(config={"require_mount": True}), fresh()

    check_down(stor, stor.storages[0])
    assert stor.store(content).status in {503, 507}
    assert [everything_below(storage) for storage in stor.storages] == [[]] * 4
    assert stor.get(content).status == 503
    assert stor.ask("GET", "/live").status == 200


def test_one_storage_that_is_no_mount_takes_its_pair_out_of_writing(make_stor: HouseFactory, mounts: Mounts) -> None:
    plain = mounts.tmpfs(MIB) / "no mount"
    stor = make_stor(pairs=[(mounts.tmpfs(64 * MIB), plain), *pairs_of(mounts)], config={"require_mount": True})
    contents = [fresh() for _ in range(10)]

    check_down(stor, plain)
    assert {stor.store(content).status for content in contents} <= {201, 503}
    assert everything_below(plain) == []
    assert disk.blobs(stor.pairs[0]) == set()


def test_status_in_json_says_which_storage_is_down_and_why(make_stor: HouseFactory, mounts: Mounts) -> None:
    plain = mounts.tmpfs(MIB) / "no mount"
    stor = make_stor(pairs=[(mounts.tmpfs(64 * MIB), plain)], config={"require_mount": True})
    good, bad = stor.report()

    assert (good["available"], good["last_error"]) == (True, None)
    assert (bad["path"], bad["available"]) == (str(plain), False)
    assert "mount" in bad["last_error"]
    assert stor.ask("GET", "/status", {"Accept": "application/json"}).status == 503


def test_mounts_work_as_before(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor, content = make_stor(pairs=pairs_of(mounts), config={"require_mount": True}), fresh()

    assert stor.ask("GET", "/status").body == b"OK"
    assert stor.store(content).status == 201
    assert stor.store(content).status == 200
    assert stor.get(content).body == content


def test_disks_of_the_original_that_are_mounted_read_only_are_served_as_they_are(
    make_stor: HouseFactory, mounts: Mounts, tmp_path: Path
) -> None:
    old, content = (mounts.ext4(), mounts.ext4()), fresh()
    place_on(old, content)
    for point in old:
        mounts.remount(point, "ro")
    new = (tmp_path / "new1", tmp_path / "new2")
    stor = make_stor(pairs=[new, old], config={"writable_pairs_regex": "/new[12]$"})

    assert stor.ask("GET", "/status").status == 200
    assert [stor.get(content).body for _ in range(5)] == [content] * 5
    assert stor.get(fresh()).status == 404
    assert stor.store(content).status == 200
    assert stor.store(fresh()).status == 201
    assert not [line for line in stor.server.stderr.splitlines() if str(old[0]) in line]
    told = command(stor, "doctor")
    assert (told.returncode, told.stdout.count("read (it is read-only)")) == (0, 2)
    mounts.unmount(old[1])
    check_down(stor, old[1])
    assert stor.get(fresh()).status == 503


# Unmounted under us

KEPT: Final = fresh()


@pytest.fixture(scope="module", params=[({}, 0), ({"require_mount": True}, 1)], ids=["as-first-seen", "required"])
def unmounted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server that has lost one member of its first pair, where a blob lies, while it served."""
    config, member = request.param
    directory = tmp_path_factory.mktemp("unmounted")
    with (
        contextlib.closing(Mounts(directory)) as mounts,
        Server(directory, pairs=pairs_of(mounts, 2), config=config) as server,
    ):
        stor = House(server)
        place_on(stor.pairs[0], KEPT)
        assert [stor.get(KEPT).body for _ in range(10)] == [KEPT] * 10
        assert stor.get(fresh()).status == 404
        assert stor.ask("GET", "/status").body == b"OK"
        mounts.unmount(stor.pairs[0][member])
        yield stor


def lost(stor: House) -> Path:
    """The storage whose disk is gone."""
    return next(storage for storage in stor.storages if not storage.is_mount())


def test_a_storage_that_is_unmounted_is_named_by_status(unmounted: House) -> None:
    check_down(unmounted, lost(unmounted))
    assert [storage["available"] for storage in unmounted.report()].count(False) == 1


def test_a_blob_whose_other_replica_is_there_is_served(unmounted: House) -> None:
    assert [unmounted.get(KEPT).body for _ in range(10)] == [KEPT] * 10
    assert unmounted.ask("HEAD", f"/{sha(KEPT)}").status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_unknown_blob_is_503_and_not_404(unmounted: House, method: str) -> None:
    for _ in range(6):
        answer = unmounted.ask(method, f"/{sha(fresh())}")
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("size", [100, 2 * MIB])
def test_nothing_is_written_into_a_mount_point(unmounted: House, size: int) -> None:
    before = disk.blobs(unmounted.pairs[0])
    statuses = {unmounted.store(fresh(size)).status for _ in range(8)}

    assert statuses <= {201, 503, 507}
    assert everything_below(lost(unmounted)) == []
    assert disk.blobs(unmounted.pairs[0]) == before


def test_a_blob_with_a_lost_replica_is_not_made_whole_in_the_mount_point(unmounted: House) -> None:
    assert unmounted.store(KEPT).status in {200, 201, 503}
    assert everything_below(lost(unmounted)) == []
    assert unmounted.get(KEPT).body == KEPT


@pytest.mark.parametrize("size", [100, 2 * MIB])
def test_a_blob_of_which_one_copy_lies_in_a_bare_mount_point_is_not_stored(
    make_stor: HouseFactory, mounts: Mounts, tmp_path: Path, size: int
) -> None:
    content, point = fresh(size), tmp_path / "point"
    place(point, content)
    mounts.tmpfs(64 * MIB, at=point)
    stor = make_stor(pairs=[(mounts.tmpfs(64 * MIB), point)])
    place(stor.storages[0], content)
    mounts.unmount(point)

    assert stor.store(content).status == 503
    assert stor.ask("POST", "/", stor.login, content).status == 503
    assert stor.get(content).body == content


def test_a_duplicate_on_the_pair_that_is_there_is_one(unmounted: House) -> None:
    content = fresh()
    place_on(unmounted.pairs[1], content)

    assert unmounted.store(content).status == 200
    assert unmounted.get(content).body == content


def test_an_upload_that_is_under_way_is_not_acknowledged_from_a_mount_point(
    make_stor: HouseFactory, mounts: Mounts
) -> None:
    stor, content = make_stor(pairs=pairs_of(mounts)), fresh(4 * MIB)
    before, point = disk.files(stor.storages), stor.pairs[0][1]
    with stor.wire() as wire:
        wire.send(stor.head_of_upload(sha(content), 4 * MIB), content[: 2 * MIB])
        assert settles(lambda: disk.files(stor.storages) - before != set())
        mounts.unmount(point)
        wire.send(content[2 * MIB :])
        wire.answer()

    assert everything_below(point) == []


def test_a_storage_that_was_unmounted_before_the_start_is_told_from_a_new_one(
    make_stor: HouseFactory, mounts: Mounts, tmp_path: Path
) -> None:
    pairs, content = pairs_of(mounts), fresh()
    first = make_stor(pairs=pairs, directory=tmp_path / "server")
    first.store(content)
    first.server.stop()
    mounts.unmount(pairs[0][1])
    second = make_stor(pairs=pairs, directory=tmp_path / "server")

    check_down(second, pairs[0][1])
    assert second.get(content).body == content
    assert second.get(fresh()).status == 503
    assert second.store(fresh()).status in {503, 507}
    assert everything_below(pairs[0][1]) == []


def test_who_starts_for_the_first_time_is_told_of_a_directory_that_is_not_mounted_as_others_are(
    make_stor: HouseFactory, mounts: Mounts, tmp_path: Path
) -> None:
    pairs, told = [(mounts.tmpfs(64 * MIB), tmp_path / "plain")], "it is not mounted, as"
    pairs[0][1].mkdir()
    stor = make_stor(pairs=pairs)
    what_to_do = "if its disk is missing, stop the server, remove .stor there, and mount the disk"
    line = f"stor: warning: {pairs[0][1]}: {told} {pairs[0][0]} is: {what_to_do}"
    assert stor.server.stderr.splitlines().count(line) == 1
    assert stor.ask("GET", "/status").status == 200
    stor.server.stop()
    stor.server.start()
    assert told not in stor.server.stderr
    plain = make_stor(pairs=[(mounts.tmpfs(64 * MIB), tmp_path)], config={"require_mount": False})
    assert told not in plain.server.stderr


def test_a_pair_whose_disks_are_all_missing_at_the_start_is_told_from_a_new_one(
    make_stor: HouseFactory, mounts: Mounts, tmp_path: Path
) -> None:
    (a, b), other = pairs_of(mounts, 2)
    points = (mounts.bind(a), mounts.bind(b))
    first, content = make_stor(pairs=[points, other], directory=tmp_path / "server"), fresh()
    assert f"{points[0]}: no storage of its set had a marker: it is a new one" in first.server.stderr
    place_on(points, content)
    first.server.stop()
    for point in points:
        mounts.unmount(point)
    second = make_stor(pairs=[points, other], directory=tmp_path / "server")

    assert f"stor: warning: {points[1]}: is not mounted, as {other[0]} is: mount the disk" in second.server.stderr
    assert "it is a new one" not in second.server.stderr
    check_down(second, points[0])
    assert second.get(content).status == 503
    assert {second.store(fresh()).status for _ in range(5)} <= {201, 503}
    assert [everything_below(point) for point in points] == [[], []]
    for inner, point in zip((a, b), points, strict=True):
        mounts.bind(inner, at=point)
    assert settles(lambda: second.ask("GET", "/status").status == 200)
    assert second.get(content).body == content


def test_disks_that_changed_places_between_two_starts_are_not_used(
    make_stor: HouseFactory, mounts: Mounts, tmp_path: Path
) -> None:
    (a, b), (c, d) = pairs_of(mounts, 2)
    points = [mounts.bind(disk) for disk in (a, b, c, d)]
    pairs = [(points[0], points[1]), (points[2], points[3])]
    first, contents = make_stor(pairs=pairs, directory=tmp_path / "server"), [fresh() for _ in range(8)]
    for number, content in enumerate(contents):
        place_on(pairs[number % 2], content)
    first.server.stop()
    for point, disk_there in ((points[1], c), (points[2], b)):
        mounts.unmount(point)
        mounts.bind(disk_there, at=point)
    before = disk.blobs((b, c))
    second = make_stor(pairs=pairs, directory=tmp_path / "server")

    for point, other in ((points[1], points[0]), (points[2], points[3])):
        line = f"stor: warning: {point}: is of another replica set than {other}: mount the right disk"
        assert line in second.server.stderr
        check_down(second, point)
    assert {second.get(content).status for content in contents} == {200}
    assert {second.store(fresh()).status for _ in range(5)} == {503}
    disk.missing(disk.replica(points[0], sha(contents[0])))
    assert second.get(contents[0]).body == contents[0], "it is right, whatever disk it is from"
    assert disk.blobs((b, c)) == before
    for point, disk_there in ((points[1], b), (points[2], c)):
        mounts.unmount(point)
        mounts.bind(disk_there, at=point)
    assert settles(lambda: second.ask("GET", "/status").status == 200)


def test_another_disk_in_the_place_of_a_storage_takes_nothing(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor, content = make_stor(pairs=pairs_of(mounts)), fresh()
    stor.store(content)
    point = stor.pairs[0][1]
    mounts.unmount(point)
    mounts.tmpfs(64 * MIB, at=point)

    check_down(stor, point)
    assert stor.get(content).body == content
    assert stor.store(fresh()).status in {503, 507}
    assert disk.files([point]) == set()


def test_one_disk_in_the_places_of_both_storages_takes_nothing(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=pairs_of(mounts))
    a, b = stor.pairs[0]
    mounts.unmount(b)
    subprocess.run(["mount", "--bind", a, b], check=True)

    check_down(stor, b)
    assert stor.store(fresh()).status == 503
    assert disk.blobs([a]) == set()


def test_a_disk_that_comes_back_is_used_again(make_stor: HouseFactory, tmp_path: Path, mounts: Mounts) -> None:
    image = mounts.tmpfs(64 * MIB)
    a, b = image / "a", image / "b"
    points = (tmp_path / "a", tmp_path / "b")
    for inner, point in zip((a, b), points, strict=True):
        inner.mkdir()
        point.symlink_to(inner)
    stor, content = make_stor(pairs=[points]), fresh()
    stor.store(content)
    a.rename(image / "away")
    assert settles(lambda: stor.ask("GET", "/status").status == 503)
    assert stor.get(content).body == content
    assert stor.get(fresh()).status == 503
    (image / "away").rename(a)

    assert settles(lambda: stor.ask("GET", "/status").status == 200, within=20)
    assert stor.get(fresh()).status == 404
    assert stor.store(fresh()).status == 201


def test_a_storage_whose_directory_is_gone_is_named_by_status(make_stor: HouseFactory) -> None:
    stor, content = make_stor(), fresh()
    place(stor.pairs[0][0], content)
    gone = stor.pairs[0][1]
    gone.rename(gone.with_name("gone"))

    check_down(stor, gone)
    assert stor.get(content).body == content
    assert stor.get(fresh()).status == 503
    assert not gone.exists()


def test_a_storage_that_is_a_file_is_named_by_status(make_stor: HouseFactory) -> None:
    stor = make_stor()
    gone = stor.pairs[1][1]
    gone.rename(gone.with_name("gone"))
    gone.write_bytes(b"no directory")

    check_down(stor, gone)
    assert stor.get(fresh()).status == 503


def test_live_is_200_whatever_the_disks_do(make_stor: HouseFactory) -> None:
    stor = make_stor()
    for storage in stor.storages:
        storage.rename(storage.with_name(f"{storage.name}.gone"))

    assert stor.ask("GET", "/live").status == 200
    assert stor.ask("GET", "/").status == 200
    assert stor.ask("GET", "/status").status == 503
    assert stor.store(fresh()).status in {503, 507}
