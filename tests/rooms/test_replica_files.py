"""An open replica, and how it is opened without waiting."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pystor import files, posix
from pystor.blob import READ_SIZE
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError
from pystor.files import Closer, FileReplica
from pystor.watch import Watch
from tests.rooms.tools import (
    adopted,
    as_nobody,
    break_disk,
    break_reads,
    descriptors,
    digest_of,
    no_thread_to_give,
    open_below,
    place,
    where,
)
from tests.support.mounts import Mounts
from tests.support.processes import eventually

CONTENT = random.Random(1).randbytes(100_000)
BLOB = Digest.of(CONTENT)


@pytest.fixture
def storage(tmp_path: Path) -> Directory:
    return adopted(tmp_path / "a")


def opened(storage: Directory, digest: Digest = BLOB) -> FileReplica:
    replica = storage.open(digest)
    assert replica is not None
    return replica


def test_a_replica_tells_what_it_is(storage: Directory, tmp_path: Path) -> None:
    path = place(storage, CONTENT)
    os.utime(path, (0, 1_234_567_890.9))
    info = path.stat()
    with opened(storage) as replica:
        assert (replica.storage, replica.path) == (storage.root, str(path))
        assert (replica.size, replica.modified) == (100_000, 1_234_567_890)
        assert replica.fingerprint == (
            *(info.st_dev, info.st_ino, info.st_size),
            *(info.st_mtime_ns, info.st_ctime_ns),
        )
        assert digest_of(replica) == BLOB
        replica.close()

    assert not descriptors(tmp_path)


def test_a_replica_larger_than_one_read_is_read_whole(storage: Directory) -> None:
    content = random.Random(2).randbytes(2 * READ_SIZE + 1)
    place(storage, content)

    with opened(storage, Digest.of(content)) as replica:
        assert digest_of(replica) == Digest.of(content)


@pytest.mark.parametrize(("offset", "size"), [(0, 100_000), (0, 0), (0, 1), (99_999, 1), (500, 70_000), (100_000, 0)])
def test_exactly_what_is_asked_for_is_read(storage: Directory, offset: int, size: int) -> None:
    place(storage, CONTENT)
    with opened(storage) as replica:
        assert replica.read(offset, size) == CONTENT[offset : offset + size]
        room = bytearray(size)
        assert replica.read_cached(offset, memoryview(room))
        assert room == CONTENT[offset : offset + size]


def test_short_reads_go_on(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    place(storage, CONTENT)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: real(fd, min(size, 30_000), offset))
    with opened(storage) as replica:
        assert replica.read(0, 100_000) == CONTENT


@pytest.mark.parametrize("left", [0, 50_000, 99_999])
def test_a_file_that_became_shorter_is_a_failure_and_never_a_short_answer(storage: Directory, left: int) -> None:
    path = place(storage, CONTENT)
    with opened(storage) as replica:
        os.truncate(path, left)

        with pytest.raises(StorageError) as failure:
            replica.read(0, 100_000)
        assert failure.value.reason == f"ends at {left} bytes"
        assert not replica.read_cached(0, memoryview(bytearray(100_000)))
        with pytest.raises(StorageError):
            digest_of(replica)


def test_a_disk_that_refuses_is_a_failure(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    place(storage, CONTENT)
    with opened(storage) as replica:
        for call in ("pread", "preadv"):
            break_disk(monkeypatch, call, storage.root)

        with pytest.raises(StorageError, match="A storage failed"):
            replica.read(0, 1)
        assert not replica.read_cached(0, memoryview(bytearray(1)))


def test_a_replica_that_is_renamed_or_replaced_is_read_as_it_was(storage: Directory) -> None:
    path = place(storage, CONTENT)
    with opened(storage) as replica:
        path.unlink()
        place(storage, b"x")

        assert replica.read(0, 100_000) == CONTENT


# Straight from the page cache to a socket

PAGE = mmap.PAGESIZE


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket that does not wait, and the other end, where one waits for two seconds."""
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        there.settimeout(2.0)
        yield here, there


def arrived(there: socket.socket, size: int) -> bytes:
    return there.recv(size, socket.MSG_WAITALL) if size else b""


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 100_000), (0, 1), (99_999, 1), (PAGE, PAGE), (PAGE - 1, 2), (500, 70_000)]
)
def test_what_is_cached_is_sent_as_it_is(
    storage: Directory, wire: tuple[socket.socket, socket.socket], offset: int, size: int
) -> None:
    place(storage, CONTENT)
    here, there = wire
    with opened(storage) as replica:
        assert replica.send_cached(here.fileno(), offset, size) == size
    assert arrived(there, size) == CONTENT[offset : offset + size]


def test_a_socket_gets_as_much_as_it_takes(storage: Directory, wire: tuple[socket.socket, socket.socket]) -> None:
    content = random.Random(3).randbytes(4 << 20)
    place(storage, content)
    here, there = wire
    received = b""
    with opened(storage, Digest.of(content)) as replica:
        while len(received) < len(content):
            sent = replica.send_cached(here.fileno(), len(received), len(content) - len(received))
            assert sent > 0
            assert len(received) > 0 or sent < len(content)
            assert len(received) + sent == len(content) or replica.send_cached(here.fileno(), 0, 1 << 20) == 0  # full
            received += arrived(there, sent)
    assert received == content


def test_what_would_have_to_come_from_the_disk_is_not_sent(
    mounts: Mounts, wire: tuple[socket.socket, socket.socket]
) -> None:
    storage = adopted(mounts.ext4(), local=True)
    path = place(storage, CONTENT)
    here, there = wire
    with opened(storage) as replica, path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # what is read brings nothing else with it
        assert replica.send_cached(here.fileno(), 0, 1) == 0
        os.pread(file.fileno(), 1, 0)
        os.pread(file.fileno(), 1, 2 * PAGE)
        assert replica.send_cached(here.fileno(), 0, PAGE + 1) == 0
        assert replica.send_cached(here.fileno(), PAGE - 1, 2) == 0
        assert replica.send_cached(here.fileno(), PAGE, 1) == 0
        assert replica.send_cached(here.fileno(), 0, 3 * PAGE) == 0
        assert replica.send_cached(here.fileno(), 0, PAGE) == PAGE
        assert replica.send_cached(here.fileno(), 2 * PAGE, PAGE) == PAGE
    assert arrived(there, 2 * PAGE) == CONTENT[:PAGE] + CONTENT[2 * PAGE : 3 * PAGE]


def test_to_ask_what_is_cached_keeps_nothing_mapped(storage: Directory) -> None:
    place(storage, CONTENT)
    with opened(storage) as replica:
        for _ in range(100):
            assert posix.is_cached(replica.fd, 0, PAGE)
        with pytest.raises(OSError, match="Bad file descriptor"):
            posix.is_cached(-1, 0, PAGE)
        assert replica.path not in Path("/proc/self/maps").read_text()


def test_what_the_kernel_does_not_tell_us_is_not_sent(
    tmp_path: Path, wire: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = wire
    far = adopted(tmp_path / "far", local=False)
    place(far, CONTENT)
    with opened(far) as replica:
        assert replica.send_cached(here.fileno(), 0, 1) == 0
    near = adopted(tmp_path / "near")
    place(near, CONTENT)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)  # mincore(2) says of others' files that all is cached
    with opened(near) as replica:
        assert replica.send_cached(here.fileno(), 0, 1) == 0
    monkeypatch.undo()
    with opened(near) as replica:
        assert replica.send_cached(here.fileno(), 0, 1) == 1
    assert arrived(there, 1) == CONTENT[:1]


def test_who_is_gone_and_what_is_gone_is_sent_nothing(
    storage: Directory, wire: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place(storage, CONTENT)
    here, there = wire
    with opened(storage) as replica:
        break_reads(monkeypatch, storage.root)
        assert replica.send_cached(here.fileno(), 0, 1) == 0
        monkeypatch.undo()
        os.truncate(path, PAGE)
        assert replica.send_cached(here.fileno(), 0, 100_000) == 0
        there.close()
        assert replica.send_cached(here.fileno(), 0, PAGE) == 0
    assert replica.send_cached(here.fileno(), 0, PAGE) == 0


# What is no replica


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(path.parent, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{directory}/{path.name[:8]}")  # the whole path would be too long
        os.rename(path.name[:8], path.name, src_dir_fd=directory, dst_dir_fd=directory)
        os.close(directory)


ODD: dict[str, Callable[[Path], None]] = {
    "a directory": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a socket": _socket,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_what_is_no_file_is_a_failure_and_hangs_nobody(
    storage: Directory, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = where(storage, BLOB)
    path.parent.mkdir(parents=True)
    make(path)
    failures: list[BaseException] = []

    def try_it() -> None:
        try:
            storage.open(BLOB)
        except StorageError as error:
            failures.append(error)

    trying = threading.Thread(target=try_it, daemon=True)
    trying.start()
    trying.join(5)

    assert len(failures) == 1
    assert storage.open_cached(BLOB) is False
    assert not descriptors(tmp_path)


def test_a_descriptor_that_cannot_be_looked_at_is_given_back(
    storage: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(storage, CONTENT)
    break_disk(monkeypatch, "fstat", storage.root)
    with pytest.raises(StorageError):
        storage.open(BLOB)
    assert storage.open_cached(BLOB) is False

    assert not descriptors(tmp_path)


def test_a_file_in_the_place_of_a_directory_is_no_blob(storage: Directory) -> None:
    Path(storage.root, BLOB.path[:2]).write_bytes(b"")

    assert storage.open(BLOB) is None
    assert not storage.open_cached(BLOB)


@pytest.mark.parametrize("target", ["nowhere", "/dev/null/nowhere"])
def test_a_link_that_leads_nowhere_is_a_bad_replica_and_no_missing_one(storage: Directory, target: str) -> None:
    place(storage, CONTENT).unlink()
    where(storage, BLOB).symlink_to(target)

    for _ in range(2):
        with pytest.raises(StorageError, match="A storage failed") as raised:
            storage.open(BLOB)
        assert raised.value.unreadable
        assert "leads nowhere" in raised.value.reason
        assert storage.open_cached(BLOB) is False


# Without waiting


def test_a_blob_whose_names_are_in_the_cache_is_opened_at_once(storage: Directory, tmp_path: Path) -> None:
    place(storage, CONTENT)
    replica = storage.open_cached(BLOB)

    assert isinstance(replica, FileReplica)
    with replica:
        assert replica.path == str(where(storage, BLOB))
        assert replica.read(0, 100_000) == CONTENT
    assert not descriptors(tmp_path)


def test_a_blob_that_is_a_link_is_opened_and_read_again_at_once(storage: Directory, tmp_path: Path) -> None:
    place(storage, CONTENT).rename(tmp_path / "elsewhere")
    where(storage, BLOB).symlink_to(tmp_path / "elsewhere")
    opened(storage).close()
    room = memoryview(bytearray(len(CONTENT)))

    def is_read_again() -> bool:
        replica = storage.open_cached(BLOB)
        assert replica
        with replica:
            again = replica.again  # of the file as it is now: the filesystem may be writing it
        return again is not None and again(0, room)

    eventually(is_read_again)
    assert room == CONTENT


def test_a_miss_is_known_at_once_when_it_was_asked_for_before(storage: Directory) -> None:
    assert storage.open(BLOB) is None
    assert storage.open_cached(BLOB) is None


def test_what_the_cache_does_not_know_is_left_to_the_patient(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(storage, CONTENT)
    for code in (errno.EAGAIN, errno.ENOSYS, errno.EIO):
        monkeypatch.setattr(posix, "open_cached", lambda *_, code=code: -code)

        assert storage.open_cached(BLOB) is False


# Without writing


@pytest.fixture
def others(mounts: Mounts) -> Iterator[Directory]:
    """A storage whose files are another user's, on a mount that notes when each was last read."""
    with tempfile.TemporaryDirectory() as directory:  # that of the test is our user's alone
        Path(directory).chmod(0o755)
        storage = adopted(mounts.ext4(at=Path(directory, "a")))
        place(storage, CONTENT)
        yield storage
        mounts.unmount(Path(storage.root))


def accessed(path: Path) -> int:
    return path.stat().st_atime_ns


def test_reading_a_replica_writes_nothing_not_even_when_that_was(
    storage: Directory, wire: tuple[socket.socket, socket.socket]
) -> None:
    path = place(storage, CONTENT)
    os.utime(path, (1, 2))  # so old that any access would be noted
    for find in (storage.open, storage.open_cached):
        replica = find(BLOB)
        assert isinstance(replica, FileReplica)
        with replica:
            assert replica.read(0, 5) == CONTENT[:5]
            assert replica.read_cached(0, memoryview(bytearray(5)))
            assert replica.send_cached(wire[0].fileno(), 0, 5) == 5
            again = replica.again
        assert again is not None
        assert again(0, memoryview(bytearray(5)))
    assert accessed(path) == 1_000_000_000


def test_a_replica_of_another_user_is_left_to_the_patient_where_reading_it_is_noted(others: Directory) -> None:
    with as_nobody():
        assert others.open_cached(BLOB) is False
        with opened(others) as replica:
            assert replica.read(0, 5) == CONTENT[:5]
            assert not replica.read_cached(0, memoryview(bytearray(5)))
            assert replica.again is None


@pytest.mark.parametrize("option", ["noatime", "ro"])
def test_a_replica_of_another_user_is_read_at_once_where_reading_is_not_noted(
    others: Directory, mounts: Mounts, option: str
) -> None:
    path = where(others, BLOB)
    os.utime(path, (1, 2))
    mounts.remount(Path(others.root), option)
    others.attach()
    with as_nobody():
        for find in (others.open, others.open_cached):
            replica = find(BLOB)
            assert isinstance(replica, FileReplica)
            with replica:
                assert replica.read_cached(0, memoryview(bytearray(5)))
                again = replica.again
            assert again is not None
            assert again(0, memoryview(bytearray(5)))
    assert accessed(path) == 1_000_000_000


def test_a_reservation_that_fails_says_why(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, (tmp_path / "file").open("rb") as read_only:
        posix.reserve(file.fileno(), 1 << 20)
        assert os.fstat(file.fileno()).st_size == 0
        assert os.fstat(file.fileno()).st_blocks * 512 >= 1 << 20
        with pytest.raises(OSError, match="Bad file descriptor"):
            posix.reserve(read_only.fileno(), 1)


def test_closing_takes_one_thread_however_many_files_it_hangs_at(
    storage: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(storage, CONTENT)
    storage.local = False
    replicas, over, before = [opened(storage) for _ in range(20)], threading.Event(), threading.active_count()
    real = files.close_now
    monkeypatch.setattr(files, "close_now", lambda fd: (over.wait(20), real(fd)))
    for replica in replicas:
        replica.close()
    assert threading.active_count() == before + 1
    assert len(open_below(tmp_path)) == 20

    over.set()
    assert not descriptors(tmp_path)


def test_what_hangs_when_it_is_closed_holds_up_nothing_of_what_is_mounted_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, real = adopted(tmp_path / "a", local=False), files.close_now
    begun, over = threading.Event(), threading.Event()
    path = place(storage, CONTENT)

    def hang(fd: int) -> None:
        begun.set()
        over.wait(20)
        real(fd)

    monkeypatch.setattr(files, "close_now", hang)
    opened(storage).close()
    assert begun.wait(20)
    monkeypatch.undo()
    (tmp_path / "a").rename(tmp_path / "before")
    shutil.copytree(tmp_path / "before", tmp_path / "a")
    storage.check()
    opened(storage).close()
    eventually(lambda: str(path) not in open_below(tmp_path))
    over.set()
    assert not descriptors(tmp_path)


@pytest.mark.parametrize("replaced", [True, False])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("watched", [True, False])
def test_the_last_file_of_a_disk_that_was_unmounted_is_closed_by_a_thread(
    mounts: Mounts, monkeypatch: pytest.MonkeyPatch, *, replaced: bool, cached: bool, watched: bool
) -> None:
    """That is the end of the filesystem, which takes as long as to write what it has in memory."""
    point = mounts.ext4()
    storage = adopted(point, watch=Watch() if watched else None)
    place(storage, CONTENT)
    replica = storage.open_cached(BLOB) if cached else opened(storage)
    assert replica
    mounts.unmount(point)
    if replaced:
        adopted(mounts.ext4(at=point))
        storage.check()
    closed: list[int] = []
    monkeypatch.setattr(storage, "_closer", closed.append)

    fd = replica.fd
    replica.close()

    assert closed == [fd]
    os.close(fd)


@pytest.mark.parametrize("watched", [True, False])
def test_the_file_of_a_disk_that_is_there_is_closed_at_once(tmp_path: Path, *, watched: bool) -> None:
    storage = adopted(tmp_path / "a", watch=Watch() if watched else None)
    place(storage, CONTENT)
    opened(storage).close()
    assert not open_below(tmp_path)


def test_what_is_closed_after_a_while_is_closed_too(tmp_path: Path) -> None:
    closer, before = Closer(), threading.active_count()
    for number in range(3):
        closer(os.open(tmp_path / str(number), os.O_CREAT | os.O_WRONLY))
        assert not descriptors(tmp_path)
        eventually(lambda: threading.active_count() == before)


def test_what_finds_no_thread_to_be_closed_by_is_closed_with_the_next(tmp_path: Path) -> None:
    closer = Closer()
    with no_thread_to_give():
        closer(os.open(tmp_path / "first", os.O_CREAT | os.O_WRONLY))
    assert len(open_below(tmp_path)) == 1
    closer(os.open(tmp_path / "second", os.O_CREAT | os.O_WRONLY))
    assert not descriptors(tmp_path)
