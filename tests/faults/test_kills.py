"""kill -9 of every process under load, again and again: promises are kept, no file is torn, no litter stays."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from tests.contract import disk
from tests.contract.disk import settles, sha
from tests.contract.house import House
from tests.faults.load import Load, Promise, broken
from tests.support.server import Server

ROUNDS: Final = int(os.environ.get("STOR_TEST_ROUNDS", "3"))
_SECONDS: Final = 0.7


def test_promises_are_kept_and_nothing_is_torn_when_all_processes_are_killed_under_load(tmp_path: Path) -> None:
    promises: list[Promise] = []
    left_behind = 0
    for number in range(ROUNDS):
        pairs = [[tmp_path / f"{pair}{side}" for side in "ab"] for pair in (1, 2)]
        server = Server(tmp_path / f"server{number}", pairs=pairs)
        stor = House(server.start())
        try:
            assert settles(lambda house=stor: temporaries(house) == [], within=5)  # type: ignore[misc]
            with Load(stor) as load:
                time.sleep(_SECONDS)
                server.kill()
        finally:
            server.kill()
        assert load.promises
        promises += load.promises
        left_behind += len(temporaries(stor))
        assert broken(promises) == []
        assert torn(stor) == []
    assert left_behind, "no upload was ever under way: this test proves nothing"


def temporaries(stor: House) -> list[Path]:
    """Files of uploads that are under way, or were."""
    return [path for storage in stor.storages for path in (storage / ".stor/tmp").glob("*")]


def torn(stor: House) -> list[Path]:
    """Files under a final name that are not what they are named after."""
    return [path for path in disk.blobs(stor.storages) if sha(path.read_bytes()) != path.stem.lower()]
