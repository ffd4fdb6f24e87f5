"""kill -9 in the middle: what was acknowledged is there, what was not left no name, and no litter stays."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.contract import disk
from tests.contract.conftest import HouseFactory
from tests.contract.disk import fresh, settles, sha
from tests.contract.house import House
from tests.support.processes import links_of


def temporaries(stor: House) -> set[Path]:
    """Everything that is neither a blob nor was there when the server was fresh."""
    return disk.files(stor.storages) - disk.blobs(stor.storages)


@pytest.mark.parametrize("size", [8 << 20, None], ids=["declared", "chunked"])
def test_an_upload_that_died_with_the_service_leaves_no_name_and_no_temporary(
    make_stor: HouseFactory, tmp_path: Path, size: int | None
) -> None:
    stor, content = make_stor(directory=tmp_path / "server"), fresh(8 << 20)
    at_first = temporaries(stor)
    begin = content[: 4 << 20]
    with stor.wire() as wire:
        wire.send(stor.head_of_upload(sha(content), size), begin if size else b"%x\r\n" % len(content) + begin)
        assert settles(lambda: len(temporaries(stor) - at_first) == 2)
        stor.server.kill()
    assert disk.blobs(stor.storages) == set()

    again = make_stor(directory=tmp_path / "server")
    assert settles(lambda: temporaries(again) <= at_first, within=5)
    assert again.get(content).status == 404
    assert again.store(content).status == 201


def test_a_temporary_of_a_living_upload_outlives_the_start_of_another_server(
    make_stor: HouseFactory, tmp_path: Path
) -> None:
    pairs = [(tmp_path / "a", tmp_path / "b")]
    stor, content = make_stor(pairs=pairs), fresh(1 << 20)
    with stor.wire() as wire:
        wire.send(stor.head_of_upload(sha(content), len(content)), content[:500_000])
        time.sleep(0.2)
        make_stor(pairs=pairs)
        time.sleep(0.5)
        wire.send(content[500_000:])
        assert wire.answer().status == 201

    assert len(stor.replicas(content)) == 2


def test_what_was_acknowledged_is_there_after_every_process_was_killed(make_stor: HouseFactory, tmp_path: Path) -> None:
    stor = make_stor(directory=tmp_path / "server")
    acknowledged: list[bytes] = []

    def upload() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                content = fresh(30_000)
                if stor.store(content).status == 201:
                    acknowledged.append(content)

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    stor.server.kill()
    for thread in threads:
        thread.join()

    assert acknowledged
    again = make_stor(directory=tmp_path / "server")
    assert [again.get(content).body == content for content in acknowledged] == [True] * len(acknowledged)
    assert all(disk.sha(path.read_bytes()) == path.stem.lower() for path in disk.blobs(again.storages))


def test_a_worker_that_is_killed_in_an_upload_leaves_nothing_and_the_others_serve_on(make_stor: HouseFactory) -> None:
    stor, content = make_stor(), fresh(4 << 20)
    assert stor.store(fresh()).status == 201
    before = disk.files(stor.storages)
    with stor.wire() as wire:
        wire.send(stor.head_of_upload(sha(content), len(content)), content[: 2 << 20])
        assert settles(lambda: len(disk.files(stor.storages) - before) == 2)
        os.kill(_worker_that_writes(stor), signal.SIGKILL)
        assert wire.rest() == b""

    assert stor.get(content).status == 404
    assert stor.store(content).status == 201
    assert stor.get(content).body == content


def _worker_that_writes(stor: House) -> int:
    """The process that has a file open for writing in a storage."""
    for pid in stor.server.processes():
        for target in map(Path, links_of(pid)):
            if target.is_file() and any(target.is_relative_to(storage) for storage in stor.storages):
                return pid
    raise AssertionError("no process writes")
