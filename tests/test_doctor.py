"""`stor doctor`: a line for each storage and each neighbour, what to do about what is wrong, and exit status 1 then."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from pystor.adapters.s3 import Bucket
from pystor.adapters.s3.client import Client
from pystor.directory import Directory
from pystor.doctor import examine
from pystor.marker import Marker
from tests.contract.disk import files
from tests.neighbours.servers.memcached import Memcached
from tests.rooms.tools import NOBODY, adopted, as_nobody
from tests.support.mounts import Mounts

LINE = re.compile(r"(ok |ILL)  (\S+)(?: \(archive\))?: (.+) \(\d+ ms\)")


def doctor(directory: Path, keys: Mapping[str, Any]) -> tuple[int, dict[str, tuple[str, str]]]:
    """Run it; returns the exit status, and what it says of each: `ok` or `ILL`, and why."""
    config = directory / "config.json"
    config.write_text(json.dumps(keys))
    command = [sys.executable, "-m", "pystor", "doctor", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    found = [LINE.fullmatch(line) for line in done.stdout.splitlines()]
    assert all(found), done.stdout
    return done.returncode, {match[2]: (match[1].strip(), match[3]) for match in found if match}


@contextmanager
def pair_in(directory: Path) -> Iterator[list[Path]]:
    pair = [directory / "a", directory / "b"]
    for storage in pair:
        storage.mkdir()
    yield pair


def test_new_storages_are_well_and_stay_as_they_are(tmp_path: Path) -> None:
    with pair_in(tmp_path) as pair:
        status, told = doctor(tmp_path, {"storage_pairs": [[str(storage) for storage in pair]]})
        assert status == 0
        assert {told[str(storage)] for storage in pair} == {
            ("ok", "written, read and removed; the first start makes it a storage")
        }
        assert files(pair) == set()


def test_a_new_storage_that_is_not_mounted_as_another_is_told_before_the_first_start(
    tmp_path: Path, mounts: Mounts
) -> None:
    disk, plain = mounts.tmpfs(4 << 20), tmp_path / "plain"
    plain.mkdir()
    status, told = doctor(tmp_path, {"storage_pairs": [[str(disk), str(plain)]]})
    line = "written, read and removed; the first start makes it a storage"
    assert (status, told[str(disk)][1], told[str(plain)][1]) == (
        0,
        line,
        f"{line}, though it is not mounted, as {disk} is",
    )


def test_a_new_storage_that_has_to_be_mounted_and_is_not_is_told_before_the_first_start(
    tmp_path: Path, mounts: Mounts
) -> None:
    disk, plain = mounts.tmpfs(4 << 20), tmp_path / "plain"
    plain.mkdir()
    status, told = doctor(tmp_path, {"storage_pairs": [[str(disk), str(plain)]], "require_mount": True})
    assert (status, told[str(disk)][0]) == (1, "ok")
    assert told[str(plain)] == ("ILL", "attach: is not mounted: mount it (or set require_mount to false)")
    assert files([plain]) == set()


def test_storages_and_neighbours_that_are_well_are_a_line_each(tmp_path: Path) -> None:
    pair = [adopted(tmp_path / name) for name in "ab"]
    with Memcached() as memcached:
        keys = {
            "storage_pairs": [[storage.root for storage in pair]],
            "memcached_servers": [":".join(map(str, memcached.address))],
            "log": [["File", "filename", str(tmp_path / "log")]],
        }
        status, told = doctor(tmp_path, keys)
    assert (status, {state for state, _ in told.values()}) == (0, {"ok"}), told
    assert told.keys() == {*(storage.root for storage in pair), "memcached", "log"}
    assert "GB free" in told[pair[0].root][1]
    assert "stored a value and got it back" in told["memcached"][1]


def test_whatever_is_wrong_is_told_with_what_to_do(tmp_path: Path) -> None:
    good = adopted(tmp_path / "a")
    (tmp_path / "b").mkdir()
    nowhere = "127.0.0.1:9"
    keys = {
        "storage_pairs": [[good.root, str(tmp_path / "b")]],
        "s3_enabled": True,
        "s3_retries": 0,
        "s3_credentials": {"access_key": "k", "secret_key": "TOPSECRET", "host": f"http://{nowhere}"},
        "memcached_servers": [nowhere],
        "rabbitmq_uri": f"amqp://u:TOPSECRET@{nowhere}",
        "statsite": {"host": "127.0.0.1", "port": 9},
        "log": [["File", "filename", f"{tmp_path}/not/there"]],
    }
    status, told = doctor(tmp_path, keys)
    assert status == 1
    assert told.pop(good.root)[0] == "ok"
    advice = {
        str(tmp_path / "b"): "mount the disk, or adopt it",
        "s3://samples": "see whether the service is up",
        "memcached": "is memcached there, and reachable?",
        "rabbitmq": "check rabbitmq_uri, and that RabbitMQ runs",
        "statsite": "check statsite's host and port, and that it runs",
        "log": "mend it, or remove it from log",
    }
    assert told.keys() == advice.keys()
    for name, (state, line) in told.items():
        assert state == "ILL", name
        assert advice[name] in line, name
        assert "TOPSECRET" not in line


@pytest.mark.parametrize("new", [False, True])
def test_a_disk_that_the_kernel_made_read_only_is_told(tmp_path: Path, mounts: Mounts, *, new: bool) -> None:
    disk = mounts.tmpfs(4 << 20)
    if not new:
        adopted(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    status, told = doctor(tmp_path, {"storage_pairs": [[str(disk)]]})
    assert status == 1
    assert told[str(disk)][0] == "ILL"
    assert "Read-only file system: look at the kernel's log" in told[str(disk)][1]


def test_a_disk_in_the_place_of_another_is_told(tmp_path: Path) -> None:
    a, b = adopted(tmp_path / "a", "X"), adopted(tmp_path / "b", "Y")
    status, told = doctor(tmp_path, {"storage_pairs": [[a.root, b.root]]})
    assert status == 1
    assert told[a.root][0] == "ok"
    assert told[b.root][0] == "ILL"
    assert f"is of another replica set than {a.root}: mount the right disk" in told[b.root][1]


def test_disks_whose_directories_are_of_another_user_are_told_before_the_first_start() -> None:
    """As of the original, which ran under another account: every upload would fail."""
    with tempfile.TemporaryDirectory() as directory:
        disk, lines = Path(directory), list[str]()
        (disk / "00").mkdir()
        (disk / "lost+found").mkdir(mode=0o700)
        with as_nobody(disk):
            assert asyncio.run(examine([[Directory(str(disk), require_mount=False)]], {}, lines.append)) == 1
            adopted(disk)
            assert asyncio.run(examine([[Directory(str(disk))]], {}, lines.append)) == 1
            line = f"ILL  {disk}: write to 00: Permission denied: let Stor's user read and write there ("
            assert [each.startswith(line) for each in lines] == [True, True]
            os.seteuid(0)
            os.chown(disk / "00", NOBODY, -1)
            os.seteuid(NOBODY)
            assert asyncio.run(examine([[Directory(str(disk))]], {}, lines.append)) == 0


def test_a_storage_that_another_user_has_made_is_told_with_what_to_do() -> None:
    """As by root, who has started the server once: the directory is that of Stor's user, and what is in it is not."""
    with tempfile.TemporaryDirectory() as directory:
        disk, lines = Path(directory), list[str]()
        adopted(disk)
        with as_nobody(disk):
            assert asyncio.run(examine([[Directory(str(disk))]], {}, lines.append)) == 1
    told = "attach: Stor's user may not read .stor/storage.json: give it the directory and its .stor"
    assert lines[0].startswith(f"ILL  {disk}: {told} (")


@pytest.mark.parametrize("name", [".stor/mirror", ".stor/quarantine", ".stor/repair"])
def test_a_directory_of_stor_itself_that_is_of_another_user_is_told(name: str) -> None:
    """As one that root has made anew, after tidying up: nothing would be noted, or kept, there."""
    with tempfile.TemporaryDirectory() as directory:
        disk, lines = Path(directory), list[str]()
        with as_nobody(disk):
            adopted(disk)
            os.seteuid(0)
            (disk / name).rmdir()
            (disk / name).mkdir()
            os.seteuid(NOBODY)
            assert asyncio.run(examine([[Directory(str(disk))]], {}, lines.append)) == 1
    assert lines[0].startswith(
        f"ILL  {disk}: write to {name}: Permission denied: let Stor's user read and write there ("
    )


def test_a_bucket_for_which_nothing_can_be_collected_here_is_told(tmp_path: Path) -> None:
    """Its uploads would all fail, however well the bucket is."""
    memory, lines = MemoryStore(), list[str]()
    for spool in (tmp_path, tmp_path / "none"):
        for writable in (True, False):
            bucket = Bucket(Client("s3://samples", memory, memory), spool=str(spool), writable=writable)
            asyncio.run(examine([[bucket]], {}, lines.append))
    assert [line[:2] for line in lines] == ["ok", "ok", "IL", "ok"]
    assert f"collect in {tmp_path}/none: No such file or directory: make the directory" in lines[2]


def test_a_file_in_the_place_of_a_directory_is_told(tmp_path: Path) -> None:
    storage = adopted(tmp_path)
    (tmp_path / "FF").touch()
    status, told = doctor(tmp_path, {"storage_pairs": [[storage.root]]})
    assert status == 1
    assert told[storage.root][1] == "write to FF: Not a directory: move away what is in the place of a directory"


class Hanging(Directory):
    """A storage whose disk does not answer before it is told to."""

    healed: threading.Event

    def attach(self) -> Marker:
        self.healed.wait(10)
        return super().attach()


def test_a_disk_that_hangs_holds_up_neither_the_doctor_nor_the_other_lines(tmp_path: Path) -> None:
    good = adopted(tmp_path / "a")
    adopted(tmp_path / "b")
    hanging = Hanging(str(tmp_path / "b"))
    hanging.healed = threading.Event()
    lines: list[str] = []
    try:
        assert asyncio.run(examine([[hanging, good]], {}, lines.append, storage_timeout=0.2)) == 1
    finally:
        hanging.healed.set()
    assert lines[0].startswith(f"ILL  {hanging.root}: ask: no answer within 0.2 s: look at the kernel's log (2")
    assert lines[1].startswith(f"ok   {good.root}: ")
