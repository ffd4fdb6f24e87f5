"""A disk goes read-only, is unmounted, or its filesystem dies, under load; or descriptors run out."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.contract.disk import fresh, settles, sha
from tests.contract.house import House
from tests.contract.wire import Cut, Wire
from tests.contract.wire import request as spell
from tests.faults.conftest import FaultyFactory, HouseFactory
from tests.faults.load import Load
from tests.faults.reads import reads
from tests.faults.workers import connect
from tests.support.mounts import Mounts
from tests.support.power import LoopDisk

pytestmark = pytest.mark.alone(reason="under a load that the test makes, no upload may take longer than a deadline")

_BYTES: Final = 2 << 30  # sparse; with less than 1 GB left it is no chance, but room, that a set is chosen by
_LOADED: Final = 0.7  # seconds before and after the fault


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[LoopDisk]:
    """The disk that is lost."""
    (tmp_path / "lost").mkdir()
    with contextlib.closing(LoopDisk("ext4", tmp_path / "lost")) as mine:
        yield mine


def pairs_with(bad: Path, mounts: Mounts) -> list[list[Path]]:
    """Two pairs, all of a size, so that both are written to."""
    return [[bad, mounts.tmpfs(_BYTES)], [mounts.tmpfs(_BYTES), mounts.tmpfs(_BYTES)]]


def keeps_its_word(stor: House, lose: Callable[[], object]) -> set[int]:
    """Lose a storage under load, see that all that was ever stored is served; gives the statuses of the uploads."""
    contents = [fresh(5_000) for _ in range(30)] + [fresh(2_000_000) for _ in range(2)]
    assert {stor.store(content).status for content in contents} == {201}
    with Load(stor) as load, reads(stor, contents) as asked:
        time.sleep(_LOADED)
        lose()
        time.sleep(_LOADED)

    assert asked.outcomes() == {"ok"}
    assert load.hung == []
    served = {stor.ask("GET", f"/{promise.digest}").status for promise in load.promises}
    assert served == {200}
    return set(load.statuses)


def abort(disk: Path) -> None:
    """Have ext4 find itself damaged: from now on it is read-only."""
    subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=True, capture_output=True)


def test_a_disk_that_went_read_only_is_read_and_writes_go_elsewhere(make_stor: HouseFactory, mounts: Mounts) -> None:
    bad = mounts.ext4(_BYTES)
    stor = make_stor(pairs=pairs_with(bad, mounts))

    assert keeps_its_word(stor, lambda: abort(bad)) <= {201, 503}
    assert {stor.store(fresh()).status for _ in range(10)} == {201}
    assert str(bad).encode() in stor.ask("GET", "/status").body


def test_a_blob_on_disks_that_are_all_read_only_is_served_and_uploads_are_refused(
    make_stor: HouseFactory, mounts: Mounts
) -> None:
    pair = [mounts.ext4(64 << 20), mounts.ext4(64 << 20)]
    stor, contents = make_stor(pairs=[pair]), [fresh(size) for size in (100, 5_000, 3_000_000)]
    assert {stor.store(content).status for content in contents} == {201}
    for side in pair:
        abort(side)
    assert {stor.store(fresh()).status for _ in range(5)} <= {503, 507}
    time.sleep(1.5)  # by now the storages were probed

    assert [stor.get(content).body == content for content in contents * 5] == [True] * 15
    Path("/proc/sys/vm/drop_caches").write_text("3")
    assert [stor.get(content).body == content for content in contents * 5] == [True] * 15


def test_a_disk_that_shuts_itself_down_is_left_alone_and_named(
    make_stor: HouseFactory, lost: LoopDisk, mounts: Mounts
) -> None:
    stor = make_stor(pairs=pairs_with(lost.point, mounts))

    assert keeps_its_word(stor, lost.cut) <= {201, 503}
    assert {stor.store(fresh()).status for _ in range(10)} == {201}
    assert settles(lambda: str(lost.point).encode() in stor.ask("GET", "/status").body)


def test_a_disk_that_is_unmounted_under_load_takes_nothing_into_its_mount_point_and_comes_back(
    make_stor: HouseFactory, lost: LoopDisk, mounts: Mounts
) -> None:
    stor = make_stor(pairs=pairs_with(lost.point, mounts))

    assert keeps_its_word(stor, lost.unmount_lazily) <= {201, 503}
    assert list(lost.point.iterdir()) == []
    assert stor.ask("GET", f"/{sha(fresh())}").status == 503
    lost.mount()
    assert settles(lambda: stor.ask("GET", "/status").status == 200)
    assert settles(lambda: str(lost.point).encode() in stor.store(fresh()).body)
    assert stor.ask("GET", f"/{sha(fresh())}").status == 404


def test_a_filesystem_that_dies_under_load_is_left_alone_until_it_is_mounted_again(
    make_stor: HouseFactory, make_faulty: FaultyFactory, tmp_path: Path
) -> None:
    dead = make_faulty()
    stor = make_stor(pairs=[[tmp_path / "a", dead.point], [tmp_path / "c", tmp_path / "d"]])

    assert keeps_its_word(stor, dead.die) <= {201, 503}
    assert {stor.store(fresh()).status for _ in range(10)} == {201}
    assert stor.ask("GET", f"/{sha(fresh())}").status == 503
    dead.unmount()
    assert {stor.store(fresh()).status for _ in range(10)} == {201}
    assert list(dead.point.iterdir()) == []
    dead.mount()
    assert settles(lambda: stor.ask("GET", "/status").status == 200)
    assert settles(lambda: str(dead.point).encode() in stor.store(fresh()).body)
    assert stor.ask("GET", f"/{sha(fresh())}").status == 404


def test_without_free_descriptors_no_stored_blob_is_404_and_service_goes_on_when_there_are_some(
    make_stor: HouseFactory,
) -> None:
    stor = make_stor(workers=2)
    contents = [fresh(5_000) for _ in range(10)] + [fresh(2_000_000)]
    assert {stor.store(content).status for content in contents} == {201}
    with contextlib.ExitStack() as stack:
        wires = connect(stor, stack, workers=2, least=12)  # one that is still starting could not go on
        with no_more_descriptors(stor):
            found = {try_to_get(wire, content) for wire in wires for content in contents}
            new = {try_to_store(wire) for wire in wires}
        assert found <= {200, 503, 0}
        assert new <= {201, 503, 507, 0}
        assert 503 in found, "there were enough descriptors: this test proves nothing"

    assert settles(lambda: stor.ask("GET", "/status").status == 200)
    assert [stor.get(content).body == content for content in contents] == [True] * len(contents)
    assert settles(lambda: {stor.store(fresh()).status for _ in range(5)} == {201})


@contextlib.contextmanager
def no_more_descriptors(stor: House) -> Iterator[None]:
    """Leave every process of a server the descriptors that it has."""
    before: dict[int, tuple[int, int]] = {}
    for pid in stor.server.processes():
        highest = max(map(int, os.listdir(f"/proc/{pid}/fd")))
        before[pid] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, before[pid][1]))
    try:
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def try_to_get(wire: Wire, content: bytes) -> int:
    """Ask on a connection that there is; gives the status, or 0 if it was cut."""
    try:
        wire.send(spell("GET", f"/{sha(content)}"))
        answer = wire.answer()
    except (Cut, OSError):
        return 0
    assert answer.status != 200 or answer.body == content
    return answer.status


def try_to_store(wire: Wire) -> int:
    """Upload on a connection that there is."""
    content = fresh()
    login = {"Authorization": "Basic d3JpdGVyOndyaXRlcl9wYXNz"}
    try:
        wire.send(spell("POST", f"/{sha(content)}", login, content))
        return wire.answer().status
    except (Cut, OSError):
        return 0
