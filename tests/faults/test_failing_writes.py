"""A storage fails in the middle of a write: nothing is acknowledged on it, nothing stays, and others take the blob."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.contract import disk
from tests.contract.disk import fresh, replica, settles, sha
from tests.contract.house import House
from tests.faults.conftest import FaultyFactory, HouseFactory
from tests.support.fuse import Fault, FaultyStorage
from tests.support.mounts import Mounts

SMALL, LARGE = 5_000, 3_000_000
FSYNC_FAILS: Final = Fault(("fsync",), error="EIO")
NO_DIRECTORY_FSYNC: Final = Fault(("fsyncdir",), error="EIO")

sizes = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])


@pytest.fixture
def unused(make_faulty: FaultyFactory) -> FaultyStorage:
    """A storage that fails, and never did before."""
    return make_faulty()


@pytest.fixture
def new(unused: FaultyStorage, make_stor: HouseFactory, tmp_path: Path) -> House:
    """A server with one pair, of which that storage is one."""
    return make_stor(pairs=[[tmp_path / "a", unused.point]])


@pytest.fixture
def two_pairs(unused: FaultyStorage, make_stor: HouseFactory, tmp_path: Path) -> House:
    """A server with two pairs, of which that storage is one."""
    return make_stor(pairs=[[tmp_path / "a", unused.point], [tmp_path / "c", tmp_path / "d"]])


def leaves_nothing(faulty: FaultyStorage, stor: House) -> bool:
    """Whether neither the storage nor its peer has a blob or a temporary."""
    places = [faulty.source, stor.storages[0]]
    return settles(lambda: [path for place in places for path in (place / ".stor/tmp").iterdir()] == []) and not (
        disk.blobs(places)
    )


@sizes
def test_a_failed_fsync_is_never_acknowledged_nor_repeated_and_the_other_pair_takes_the_blobs(
    two_pairs: House, unused: FaultyStorage, size: int
) -> None:
    with unused.failing(FSYNC_FAILS):
        answers = [two_pairs.store(fresh(size)) for _ in range(12)]
        assert {answer.status for answer in answers} <= {201, 503}
        assert [answer.status for answer in answers].count(503) <= 1  # then the storage is out
        assert not any(str(unused.point).encode() in answer.body for answer in answers)
        synced = {path: count for path, count in unused.calls("fsync").items() if "/tmp/" in path}
        assert set(synced.values()) <= {1}
        assert leaves_nothing(unused, two_pairs)
        assert two_pairs.ask("GET", "/status").status == 503 or not synced

    assert settles(lambda: str(unused.point).encode() in two_pairs.store(fresh()).body)
    assert two_pairs.ask("GET", "/status").status == 200


@sizes
def test_a_failed_fsync_without_another_pair_is_503_and_leaves_nothing(
    stor: House, faulty: FaultyStorage, size: int
) -> None:
    with faulty.failing(FSYNC_FAILS):
        assert {stor.store(fresh(size)).status for _ in range(3)} == {503}
        assert leaves_nothing(faulty, stor)
        assert stor.ask("GET", "/live").status == 200


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("operation", ["create", "write", "fsync"])
@sizes
def test_no_room_is_507_wherever_it_turns_up_and_leaves_nothing(
    stor: House, faulty: FaultyStorage, size: int, operation: str, error: str
) -> None:
    content = fresh(size)
    with faulty.failing(Fault((operation,), path="/tmp/", error=error)):
        assert stor.store(content).status == 507
        assert leaves_nothing(faulty, stor)
        assert stor.ask("GET", f"/{sha(content)}").status == 404

    assert stor.store(content).status == 201


@sizes
def test_an_io_error_while_writing_is_503_and_leaves_nothing(stor: House, faulty: FaultyStorage, size: int) -> None:
    content = fresh(size)
    with faulty.failing(Fault(("write",), error="EIO")):
        assert stor.store(content).status == 503
        assert leaves_nothing(faulty, stor)

    assert settles(lambda: stor.store(content).status == 201)


@sizes
def test_a_rename_that_fails_on_one_replica_is_not_acknowledged_and_the_set_is_whole_later(
    stor: House, faulty: FaultyStorage, size: int
) -> None:
    content = fresh(size)
    with faulty.failing(Fault(("rename",), path=r"\.dat$", error="EIO")):
        assert stor.store(content).status == 503
        assert (stor.storages[0] / ".stor/repair" / sha(content).upper()).exists()
        assert stor.get(content).body == content
        assert not replica(faulty.source, sha(content)).exists()

    assert settles(lambda: disk.is_whole(replica(faulty.source, sha(content)), content), within=20)
    assert settles(lambda: list((stor.storages[0] / ".stor/repair").iterdir()) == [], within=20)


@pytest.mark.parametrize("operation", ["fsync", "rename"])
@sizes
def test_what_failed_is_logged_with_the_digest_counted_and_shown_and_the_writer_reads_no_path(
    new: House, unused: FaultyStorage, size: int, operation: str
) -> None:
    content, storage = fresh(size), str(unused.point)
    with unused.failing(Fault((operation,), path=r"/tmp/|\.dat$", error="EIO")):
        answer = new.store(content)
        assert settles(lambda: sha(content) in new.server.stderr)
        counted = new.ask("GET", "/metrics").body.decode()
        shown = [each["last_error"] for _ in range(8) for each in new.report() if each["path"] == storage]

    assert answer.status == 503
    assert storage.encode() not in answer.body
    step = "publish" if operation == "rename" else "fsync"
    line = f"storage failed: {storage}: {step}: Input/output error (blob {sha(content)})"
    assert 1 <= new.server.stderr.count(line) <= 2  # once in each worker: repair may have tried, too
    assert f'stor_storage_failures_total{{storage="{storage}"}}' in counted
    assert [storage in (error or "") for error in shown] == [True] * 8  # whichever worker answers


@sizes
def test_a_blob_whose_directory_cannot_be_synced_is_not_acknowledged_the_second_time_either(
    stor: House, faulty: FaultyStorage, size: int
) -> None:
    content = fresh(size)
    with faulty.failing(NO_DIRECTORY_FSYNC):
        assert [stor.store(content).status for _ in range(3)] == [503] * 3

    assert settles(lambda: stor.store(content).status in (200, 201))
    assert disk.is_whole(replica(faulty.source, sha(content)), content)


def a_file(branch: Path, _: Mounts) -> None:
    branch.write_bytes(b"in the way")


def a_link_to_another_disk(branch: Path, mounts: Mounts) -> None:
    branch.symlink_to(mounts.tmpfs(1 << 20))


def a_disk_that_is_read_only(branch: Path, mounts: Mounts) -> None:
    mounts.remount(mounts.tmpfs(1 << 20, at=branch), "ro")


@pytest.mark.parametrize("obstruct", [a_file, a_link_to_another_disk, a_disk_that_is_read_only])
def test_what_is_wrong_with_one_directory_refuses_the_blobs_below_it_and_no_others(
    make_stor: HouseFactory, tmp_path: Path, mounts: Mounts, obstruct: Callable[[Path, Mounts], None]
) -> None:
    stor = make_stor(pairs=[[tmp_path / "a", tmp_path / "b"]])
    obstruct(tmp_path / "a" / "AB", mounts)
    refused = next(content for content in iter(fresh, b"") if sha(content).startswith("ab"))
    others = [content for content in (fresh() for _ in range(10)) if not sha(content).startswith("ab")]

    assert [stor.store(refused).status for _ in range(2)] == [503] * 2
    assert {stor.store(content).status for content in others} == {201}
    assert stor.ask("GET", "/status").status == 200


@pytest.mark.parametrize("target", ["", "/"], ids=["named", "unnamed"])
@sizes
def test_what_a_directory_refuses_is_stored_in_the_other_pair(
    make_stor: HouseFactory, tmp_path: Path, size: int, target: str
) -> None:
    pairs = [[tmp_path / side for side in sides] for sides in ("ab", "cd")]
    stor, contents = make_stor(pairs=pairs), [fresh(size) for _ in range(8)]
    for number in range(256):
        (tmp_path / "a" / f"{number:02X}").write_bytes(b"in the way")
    answers = [stor.ask("POST", target or f"/{sha(content)}", stor.login, content) for content in contents]

    assert {answer.status for answer in answers} == {201}
    for content, answer in zip(contents, answers, strict=True):
        written = [replica(storage, sha(content)) for storage in pairs[1]]
        assert sorted(json.loads(answer.body)) == sorted(map(str, written))
        assert all(disk.is_whole(path, content) for path in written)
    assert stor.server.stderr.count(f"storage failed: {tmp_path / 'a'}: publish: Not a directory") > 0
    assert stor.ask("GET", "/status").status == 200


def test_a_socket_under_a_final_name_is_a_bad_replica_and_no_dead_storage(
    make_stor: HouseFactory, tmp_path: Path
) -> None:
    stor, content = make_stor(pairs=[[tmp_path / "a", tmp_path / "b"]]), fresh()
    name = replica(tmp_path / "a", sha(content))
    name.parent.mkdir(parents=True)
    os.mknod(name, stat.S_IFSOCK | 0o644)

    assert {stor.get(content).status for _ in range(5)} == {503}
    assert stor.ask("GET", "/status").status == 200
    assert stor.store(fresh()).status == 201
    assert stor.store(content).status == 200
    assert disk.is_whole(name, content)
