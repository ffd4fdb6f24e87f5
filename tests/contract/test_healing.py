"""What was found missing or bad is made good again, by itself, from a replica that is good."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.contract import disk
from tests.contract.conftest import HouseFactory
from tests.contract.disk import Damage, fresh, is_whole, kept, place_on, settles, sha
from tests.contract.house import House
from tests.support import needs
from tests.support.mounts import Mounts

ROOT: Final = Path(__file__).resolve().parents[2]

SMALL, LARGE = 5_000, 3_000_000

OLD_AS_TOLD: Final = "Fri, 13 Feb 2009 23:31:30 GMT"

DAMAGES: Final = (disk.missing, disk.truncated, disk.emptied, disk.flipped, disk.lengthened, disk.a_looping_link)


def command(stor: House, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(stor.command(*arguments), capture_output=True, text=True, timeout=60, check=False)


def wish(storage: Path, content: bytes) -> Path:
    return storage / ".stor" / "repair" / sha(content).upper()


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_replica_that_a_read_finds_bad_is_good_again_within_seconds(stor: House, size: int, damage: Damage) -> None:
    content = fresh(size)
    paths = place_on(stor.pairs[0], content)
    spoilt = damage(paths[1])
    for _ in range(40):
        answer = stor.get(content) if size == SMALL else None
        assert answer is None or answer.body == content
        if answer is None:
            _read_at_least_once(stor, content)
    assert settles(lambda: is_whole(paths[1], content))
    assert settles(lambda: not wish(stor.pairs[0][1], content).exists())
    assert spoilt is None or kept(stor.pairs[0][1], spoilt)


def _read_at_least_once(stor: House, content: bytes) -> None:
    """A large blob is hashed on its way: when it turns out to be bad, the connection is cut."""
    with stor.wire() as wire:
        wire.send(f"GET /{sha(content)} HTTP/1.1\r\nHost: stor\r\nConnection: close\r\n\r\n".encode())
        body = wire.rest().partition(b"\r\n\r\n")[2]
    assert body == content or len(body) < len(content)


def test_a_blob_without_any_good_replica_is_503_and_nothing_of_it_is_removed(make_stor: HouseFactory) -> None:
    stor = make_stor()
    content = fresh(SMALL)
    spoilt = [disk.flipped(path) for path in place_on(stor.pairs[0], content)]
    for _ in range(5):
        assert stor.get(content).status == 503
    assert [path.read_bytes() for path in place_paths(stor, content)] == spoilt


def place_paths(stor: House, content: bytes) -> list[Path]:
    return [disk.replica(storage, sha(content)) for storage in stor.pairs[0]]


def test_a_link_to_the_other_replica_is_replaced_by_an_upload_and_kept(stor: House) -> None:
    """As `rdfind -makesymlinks` leaves it."""
    content = fresh(SMALL)
    one, other = place_on(stor.pairs[0], content)
    other.unlink()
    other.symlink_to(one)

    assert stor.store(content).status == 200
    assert is_whole(other, content)
    (link,) = (stor.pairs[0][1] / ".stor" / "quarantine").glob(f"{sha(content).upper()}.*")
    assert link.is_symlink()


def test_a_blob_whose_replicas_are_links_to_a_disk_that_is_away_is_503_and_not_404_and_the_links_are_kept(
    stor: House, tmp_path: Path
) -> None:
    content = fresh(SMALL)
    for path in place_on(stor.pairs[0], content):
        path.unlink()
        path.symlink_to(tmp_path / "away")

    assert [stor.get(content).status for _ in range(5)] == [503] * 5
    assert stor.store(content).status == 200
    assert stor.get(content).body == content
    for storage in stor.pairs[0]:
        (link,) = (storage / ".stor" / "quarantine").glob(f"{sha(content).upper()}.*")
        assert link.is_symlink()


def test_an_upload_makes_a_pair_whole_though_another_pair_has_the_blob_in_full(make_stor: HouseFactory) -> None:
    stor, content = make_stor(), fresh(SMALL)
    one, other = place_on(stor.pairs[0], content)
    disk.flipped(one)
    disk.missing(other)
    whole = place_on(stor.pairs[1], content)

    answer = stor.store(content)

    assert answer.status == 200
    assert sorted(json.loads(answer.body)) == sorted(map(str, (one, other, *whole)))
    assert all(is_whole(path, content) for path in (one, other))
    disk.missing(other)
    assert stor.store(fresh(SMALL), name=sha(content)).status == 200  # it is stored, whatever comes
    assert not other.exists()


@pytest.mark.parametrize("every", [1, 2], ids=["all bad", "half of them bad"])
def test_an_upload_without_a_name_makes_all_pairs_whole_that_have_bad_replicas(
    make_stor: HouseFactory, every: int
) -> None:
    stor, content = make_stor(), fresh(LARGE)
    paths = [path for pair in stor.pairs for path in place_on(pair, content)]
    for path in paths[::every]:
        disk.flipped(path)

    answer = stor.ask("POST", "/", stor.login, content)

    assert answer.status == 200
    assert sorted(json.loads(answer.body)) == sorted(map(str, paths))
    assert all(is_whole(path, content) for path in paths)


def test_an_upload_without_a_name_makes_a_pair_whole_whose_replicas_are_bad_though_it_goes_to_another(
    make_stor: HouseFactory, mounts: Mounts, tmp_path: Path
) -> None:
    small, roomy = [mounts.tmpfs(16 << 20) for _ in "ab"], [tmp_path / side for side in "ab"]
    stor, content = make_stor(pairs=[small, roomy]), fresh(LARGE)
    paths = place_on(stor.pairs[0], content)
    for path in paths:
        disk.truncated(path)

    answer = stor.ask("POST", "/", stor.login, content)

    assert answer.status == 200
    assert set(map(str, paths)) <= set(json.loads(answer.body)) == set(map(str, stor.replicas(content)))
    assert stor.get(content).body == content


def test_stor_repair_works_the_queue_off_at_once(make_stor: HouseFactory) -> None:
    stor = make_stor()
    content = fresh(SMALL)
    paths = place_on(stor.pairs[0], content)
    stor.server.stop()
    disk.missing(paths[0])
    wish(stor.pairs[0][0], content).touch()

    done = command(stor, "repair")
    assert (done.returncode, done.stdout) == (0, f"{sha(content)}  done\n")
    assert is_whole(paths[0], content)
    assert not wish(stor.pairs[0][0], content).exists()


def test_stor_repair_waits_for_what_a_server_is_working_on(make_stor: HouseFactory, tmp_path: Path) -> None:
    stor, content = make_stor(), fresh(SMALL)
    paths = place_on(stor.pairs[0], content)
    stor.server.stop()
    disk.missing(paths[0])
    wish(stor.pairs[0][0], content).touch()

    said, told = tmp_path / "said", tmp_path / "told"
    with busy_with_repairs(stor.pairs[0][1]), said.open("wb") as out, told.open("wb") as err:
        repair = subprocess.Popen(stor.command("repair"), stdout=out, stderr=err)
        waiting = f"stor: somebody else, as a server, is repairing {stor.server.pairs[0][0]} "
        assert settles(lambda: waiting in told.read_text())
        assert repair.poll() is None
        assert not paths[0].exists()
    assert (repair.wait(20), said.read_text()) == (0, f"{sha(content)}  done\n")
    assert told.read_text().count(waiting) == 1
    assert is_whole(paths[0], content)


@contextlib.contextmanager
def busy_with_repairs(storage: Path) -> Iterator[None]:
    """Have the turn of a storage's repairs, as a worker has while it works them off."""
    fd = os.open(storage / ".stor/repair", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def test_stor_repair_says_what_it_cannot_repair_and_keeps_it_on_the_queue(make_stor: HouseFactory) -> None:
    stor = make_stor()
    content = fresh(SMALL)
    spoilt = [disk.flipped(path) for path in place_on(stor.pairs[0], content)]
    stor.server.stop()
    wish(stor.pairs[0][0], content).touch()

    done = command(stor, "repair")
    assert done.returncode == 1
    assert done.stdout.startswith(f"{sha(content)}  ")
    assert wish(stor.pairs[0][0], content).exists()
    assert [path.read_bytes() for path in place_paths(stor, content)] == spoilt


def test_a_new_disk_is_adopted_deliberately_and_then_filled(make_stor: HouseFactory) -> None:
    stor = make_stor()
    content = fresh(SMALL)
    first, second = stor.pairs[0]
    place_on((first, second), content)
    dead = second.with_name("dead")
    second.rename(dead)
    second.mkdir()
    assert settles(lambda: stor.ask("GET", "/status").status == 503)
    assert str(second) in stor.ask("GET", "/status").body.decode()
    assert stor.get(content).body == content
    assert stor.ask("GET", f"/{sha(fresh())}").status == 503
    assert list(second.iterdir()) == []

    assert command(stor, "storage", "adopt", str(second)).returncode == 0
    assert settles(lambda: stor.ask("GET", "/status").status == 200)
    for _ in range(20):
        assert stor.get(content).body == content
    # Who reads a blob finds out what lacks it, unless that is slow just then: another reader comes along.
    whole = disk.replica(second, sha(content))
    assert settles(lambda: stor.get(content).body == content and is_whole(whole, content))


def test_who_adopts_the_first_disk_of_a_set_is_told_that_a_server_that_runs_needs_a_signal(
    make_stor: HouseFactory,
) -> None:
    stor = make_stor(workers=1)  # one that begins only now would take what it finds
    first, second = stor.pairs[0]
    for storage in (first, second):
        storage.rename(storage.with_name(f"dead-{storage.name}"))
        storage.mkdir()
    told = "no other of its set has a marker: when all of them are adopted, send SIGHUP to a server that runs"
    done = command(stor, "storage", "adopt", str(first))
    assert (done.returncode, done.stdout) == (0, f"{first} is adopted; {told}\n")
    found = "the server finds it by itself, and `stor repair --all` fills it"
    assert command(stor, "storage", "adopt", str(second)).stdout == f"{second} is adopted; {found}\n"
    assert stor.ask("GET", "/status").status == 503
    os.kill(stor.server.pid, signal.SIGHUP)
    assert settles(lambda: stor.ask("GET", "/status").status == 200)


@pytest.mark.parametrize("size", [SMALL, 8 << 20])
def test_an_upload_to_a_disk_that_is_replaced_under_it_is_not_acknowledged_and_the_set_is_whole_later(
    make_stor: HouseFactory, size: int
) -> None:
    stor, content = make_stor(workers=1), fresh(size)
    for _, replaced in stor.pairs:
        (replaced.parent / "old").mkdir(exist_ok=True)
    with stor.wire() as wire:
        wire.send(stor.head_of_upload(sha(content), size), content[: size // 2])
        assert size == SMALL or settles(lambda: any(disk.files([each / ".stor/tmp"]) for each in stor.storages))
        for _, replaced in stor.pairs:
            replaced.rename(replaced.parent / "old" / replaced.name)
            replaced.mkdir()
            assert command(stor, "storage", "adopt", str(replaced)).returncode == 0
        wire.send(content[size // 2 :])
        status = wire.answer().status

    assert status == (201 if size == SMALL else 503)  # a small one is written in one go, to the new disk
    assert settles(lambda: len(stor.replicas(content)) == 2)


def test_what_operators_are_told_to_type_to_look_at_every_blob_has_the_bad_ones_repaired(
    make_stor: HouseFactory,
) -> None:
    stor = make_stor()
    (typed,) = re.findall(r"```\n(cd /mnt/data1 .*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    storage, content = stor.pairs[0][0], fresh(SMALL)
    place_on(stor.pairs[0], fresh(100))
    path = place_on(stor.pairs[0], content)[0]
    spoilt = disk.flipped(path)
    shell = ["bash", "-c", typed.replace("/mnt/data1", str(storage))]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert settles(lambda: is_whole(path, content))
    assert kept(storage, spoilt)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_a_replica_is_made_anew_while_a_third_storage_of_its_set_is_away(
    make_stor: HouseFactory, tmp_path: Path, size: int
) -> None:
    stor, content = make_stor(pairs=[[tmp_path / side for side in "abc"]]), fresh(size)
    paths = place_on(stor.pairs[0], content)
    stor.storages[2].rename(tmp_path / "away")
    disk.missing(paths[1])

    assert settles(lambda: stor.get(content).body == content and is_whole(paths[1], content))
    assert settles(lambda: [len(list((each / ".stor/repair").iterdir())) for each in stor.storages[:2]] == [0, 1])


def test_stor_repair_of_all_fills_a_storage_that_is_empty(make_stor: HouseFactory) -> None:
    stor = make_stor()
    contents = [fresh(100), fresh(SMALL), fresh(LARGE)]
    paths = [place_on(stor.pairs[0], content) for content in contents]
    for first, _ in paths[:2]:
        disk.missing(first)
    disk.missing(paths[2][1])

    done = command(stor, "repair", "--all")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == sorted(f"{sha(content)}  done" for content in contents)
    assert all(is_whole(path, content) for content, both in zip(contents, paths, strict=True) for path in both)
    assert command(stor, "repair", "--all").stdout == ""


@pytest.mark.parametrize(
    ("key", "rate"), [("repair_files_per_second", 8), ("repair_bytes_per_second", 8 * SMALL)], ids=["files", "bytes"]
)
def test_stor_repair_of_all_copies_no_faster_than_is_configured(make_stor: HouseFactory, key: str, rate: int) -> None:
    stor = make_stor(config={key: rate})
    for _ in range(6):
        disk.missing(place_on(stor.pairs[0], fresh(SMALL))[1])

    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = stor.command("repair", "--all")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        told = [time.monotonic() for _ in running.stdout]
    assert (running.returncode, len(told)) == (0, 6)
    assert told[-1] - told[0] > 4 / 8


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("way", ["read", "upload", "upload of unknown length", "repair"])
def test_a_replica_that_was_mended_is_of_the_time_of_the_others(stor: House, size: int, way: str) -> None:
    """`Last-Modified` is that of whichever replica is read: it must not change from one request to the next."""
    content = fresh(size)
    first, second = place_on(stor.pairs[0], content)
    disk.missing(second)
    if way == "read":
        assert settles(lambda: stor.get(content).body == content and is_whole(second, content))
    elif way == "repair":
        assert command(stor, "repair", "--all").returncode == 0
    else:
        answer = stor.store(content) if way == "upload" else stor.store_chunked(content)
        assert answer.status == 200
    assert is_whole(second, content)
    assert second.stat().st_mtime_ns == first.stat().st_mtime_ns
    assert {stor.get(content).headers["last-modified"] for _ in range(10)} == {OLD_AS_TOLD}


def test_each_set_that_is_made_whole_keeps_its_own_time(make_stor: HouseFactory) -> None:
    stor, content = make_stor(), fresh(SMALL)
    lacking = []
    for number, pair in enumerate(stor.pairs[:2]):
        lacking.append(place_on(pair, content, disk.OLD + number)[1])
        disk.missing(lacking[-1])
    assert stor.store(content).status == 200
    assert [path.stat().st_mtime for path in lacking] == [disk.OLD, disk.OLD + 1]


def test_stor_repair_of_all_goes_on_without_a_storage_that_is_away_and_tells_it_from_blobs_that_fail(
    make_stor: HouseFactory,
) -> None:
    stor = make_stor()
    away, content, bad = stor.pairs[0][1], fresh(SMALL), fresh(SMALL)
    place_on(stor.pairs[0], fresh(SMALL))
    lacking = place_on(stor.pairs[1], content)[0]
    disk.missing(lacking)
    stor.server.stop()
    (away / ".stor/storage.json").unlink()

    done = command(stor, "repair", "--all")
    assert (done.returncode, done.stdout) == (1, f"{sha(content)}  done\n")
    assert done.stderr.splitlines() == [
        f"stor: {away}: attach: has no .stor marker: mount the disk, or adopt it",
        "stor: storages that are away: 1; what they lack, or have noted, waits for them",
    ]
    assert lacking.read_bytes() == content
    for path in place_on(stor.pairs[1], bad):
        disk.flipped(path)
    wish(stor.pairs[1][0], bad).touch()
    done = command(stor, "repair")
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    assert "stor: storages that are away: 1;" in done.stderr
    assert "stor: blobs that could not be repaired: 1; those on the queue stay there" in done.stderr


def test_stor_repair_of_all_fills_no_other_set_with_what_one_lacks_that_takes_no_writes(
    make_stor: HouseFactory,
) -> None:
    stor = make_stor(config={"writable_pairs_regex": "pair2/"})
    (kept, replaced), lacking = stor.pairs[0], [fresh(100), fresh(SMALL)]
    for content in lacking:
        disk.missing(place_on((kept, replaced), content)[1])
    (replaced / ".stor/storage.json").unlink()
    told = f"{kept} and {replaced} take no writes: let writable_pairs_regex match them"
    done = command(stor, "storage", "adopt", str(replaced))
    assert (done.returncode, done.stdout) == (0, f"{replaced} is adopted; {told} for `stor repair --all` to fill it\n")

    done = command(stor, "repair", "--all")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"stor: {told} for what is missing there to be copied" in done.stderr.splitlines()
    assert [len(stor.replicas(content)) for content in lacking] == [1, 1]


def test_stor_repair_says_of_a_blob_without_any_good_replica_that_it_has_to_be_brought_back(
    make_stor: HouseFactory,
) -> None:
    stor, content = make_stor(), fresh(SMALL)
    stor.server.stop()
    for path in place_on(stor.pairs[0], content):
        disk.flipped(path)
    wish(stor.pairs[0][0], content).touch()
    done = command(stor, "repair")
    advice = "No storage has a good replica: upload the blob, or bring it back from a backup"
    assert (done.returncode, done.stdout) == (1, f"{sha(content)}  {advice}\n")


def test_stor_repair_of_all_replaces_links_and_goes_on_behind_what_cannot_be_read(make_stor: HouseFactory) -> None:
    stor = make_stor()
    content = fresh(SMALL)
    first, second = place_on(stor.pairs[0], content)
    second.unlink()
    second.symlink_to(first)
    in_the_way = stor.pairs[0][0] / "00"
    if in_the_way.exists():
        in_the_way.rename(stor.pairs[0][0] / "elsewhere")
    in_the_way.touch()

    done = command(stor, "repair", "--all")
    assert (done.returncode, done.stdout) == (1, f"{sha(content)}  done\n")
    assert done.stderr.splitlines()[-2:] == [
        f"stor: {stor.pairs[0][0]}: scan {in_the_way}: Not a directory",
        "stor: directories that cannot be read: 1; what they have was not compared",
    ]
    assert "storages that are away" not in done.stderr
    assert not second.is_symlink()
    assert second.read_bytes() == content


def test_stor_repair_where_there_is_no_storage_at_all_is_told_in_lines(tmp_path: Path) -> None:
    ours = {name: value for name, value in os.environ.items() if name != "CONFIG_FILE"}
    for words in (["repair"], ["repair", "--all"]):
        command = [sys.executable, "-m", "pystor", *words]
        done = subprocess.run(command, cwd=tmp_path, env=ours, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert all(line.startswith("stor: ") for line in done.stderr.splitlines())
        assert f"stor: {tmp_path}/stor-data/data1: attach: No such file or directory" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_adopting_what_is_no_storage_is_refused_in_one_line(stor: House, tmp_path: Path) -> None:
    done = command(stor, "storage", "adopt", str(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path) in done.stderr


def test_whoever_meets_a_storage_that_cannot_be_looked_at_says_what_to_do(make_stor: HouseFactory) -> None:
    stor = make_stor()
    stor.server.stop()
    storage = stor.pairs[0][1]
    (storage / ".stor").rename(storage.with_name("elsewhere"))
    (storage / ".stor").touch()
    for words in (("repair",), ("repair", "--all"), ("storage", "adopt", str(storage)), ("doctor",)):
        done = command(stor, *words)
        told = [line for line in (done.stdout + done.stderr).splitlines() if f"{storage}: " in line]
        assert len(told) == 1
        assert "Not a directory: move away what is in the place of a directory" in told[0]
    stor.server.start()
    assert f"warning: {storage}: Not a directory: move away what is in the place of a directory" in stor.server.stderr


def test_root_leaves_nothing_of_its_own_on_the_storages_of_another_user(make_stor: HouseFactory) -> None:
    needs.root("give storages away")
    stor = make_stor()
    first, second = stor.pairs[0]
    content = fresh(SMALL)
    disk.missing(place_on((first, second), content)[1])
    stor.server.stop()
    os.chown(first / ".stor", pwd.getpwnam("nobody").pw_uid, -1)
    (second / ".stor/storage.json").unlink()
    (first / ".stor/tmp").rmdir()
    before = disk.files(stor.storages)

    for words in (("repair", "--all"), ("repair",), ("storage", "adopt", str(second)), ("doctor",)):
        done = command(stor, *words)
        assert done.returncode == 2
        assert done.stderr.startswith(f"stor: {first} belongs to nobody, who could not write to what root makes there")
        assert done.stderr.endswith(": put `sudo -u nobody` before the command, and name the file by --config\n")
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert disk.files(stor.storages) == before
    assert not (first / ".stor/tmp").exists()


def test_root_adopts_no_disk_of_another_user_in_a_set_that_takes_no_writes_either(make_stor: HouseFactory) -> None:
    needs.root("give storages away")
    stor = make_stor(config={"writable_pairs_regex": "pair2/"})
    first, second = stor.pairs[0]
    stor.server.stop()
    os.chown(first / ".stor", pwd.getpwnam("nobody").pw_uid, -1)
    (second / ".stor/storage.json").unlink()
    done = command(stor, "storage", "adopt", str(second))
    assert done.returncode == 2
    assert done.stderr.startswith(f"stor: {first} belongs to nobody, who could not write to what root makes there")
    assert not (second / ".stor/storage.json").exists()


def test_root_who_serves_the_storages_of_another_user_is_warned_once(make_stor: HouseFactory) -> None:
    needs.root("give storages away")
    stor = make_stor()
    warning = "who could not write to what root makes there"
    assert warning not in stor.server.stderr
    stor.server.stop()
    first, second = stor.pairs[0]
    for storage in (first, second):
        os.chown(storage / ".stor", pwd.getpwnam("nobody").pw_uid, -1)
    stor.server.start()
    told = [line for line in stor.server.stderr.splitlines() if warning in line]
    assert told == [f"stor: warning: {first} belongs to nobody, {warning}: let nobody run the server"]


def test_root_is_told_whose_the_storages_are_before_the_first_start_too(make_stor: HouseFactory) -> None:
    needs.root("give storages away")
    stor = make_stor()
    line = "who could not write to what root makes there"
    stor.server.stop()
    first, second = stor.pairs[0]
    for storage in (first, second):
        shutil.rmtree(storage / ".stor")
        os.chown(storage, pwd.getpwnam("nobody").pw_uid, -1)

    for words in (("doctor",), ("storage", "adopt", str(second))):
        done = command(stor, *words)
        assert done.returncode == 2
        assert done.stderr.startswith(f"stor: {first} belongs to nobody, {line}: put `sudo -u nobody` before")
    assert not (second / ".stor").exists()
    stor.server.start()
    told = [each for each in stor.server.stderr.splitlines() if line in each]
    assert told == [f"stor: warning: {first} belongs to nobody, {line}: let nobody run the server"]


@pytest.mark.parametrize(("size", "bad"), [(1000, 1), (1000, 2), (2 << 20, 1)])
def test_a_blob_whose_bad_replica_may_not_be_replaced_is_stored_elsewhere(
    make_stor: HouseFactory, mounts: Mounts, size: int, bad: int
) -> None:
    needs.tool("chattr")
    stor, content = make_stor(pairs=[(mounts.ext4(), mounts.ext4()) for _ in range(2)], workers=1), fresh(size)
    assert stor.store(content).status == 201
    spoilt = stor.replicas(content)[:bad]
    for path in spoilt:
        disk.flipped(path)
    subprocess.run(["chattr", "+i", *spoilt], check=True)
    try:
        assert stor.store(content).status == 201
        assert stor.get(content).body == content
    finally:
        subprocess.run(["chattr", "-i", *spoilt], check=True)
