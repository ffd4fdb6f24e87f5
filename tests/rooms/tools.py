"""What the tests of the rooms share: storages, pools, bodies, and disks that fail."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pystor.blob import READ_SIZE, Replica
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.events import Event
from pystor.hints import Hints, NoSharedCache
from pystor.ingest import Body
from pystor.open_directory import OpenDirectory
from pystor.pool import Pool
from pystor.replicas import ReplicaSet
from pystor.tiers import Tier, Tiers
from pystor.verification import Verifier
from pystor.watch import Watch
from tests.support import needs

_T = TypeVar("_T")


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a scenario in an event loop of its own, and not for ever."""
    return asyncio.run(asyncio.wait_for(main, 30))


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds that happens in another thread."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  there is no event to wait for
            await asyncio.sleep(0.001)


# Storages


def adopted(root: Path, replica_set: str = "a set", **options: Any) -> Directory:
    """A storage over a directory, which is made if it is not there; nothing is reserved unless said otherwise."""
    root.mkdir(parents=True, exist_ok=True)
    storage = Directory(str(root), **{"reserve": 0, **options})
    storage.adopt(replica_set)
    return storage


def place(storage: Directory, content: bytes, digest: Digest | None = None) -> Path:
    """Put a replica there by hand; one under a name that is not its own is a bad one."""
    path = where(storage, digest or Digest.of(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def where(storage: Directory, digest: Digest) -> Path:
    return Path(storage.root, digest.path)


def blobs(storage: Directory) -> list[bytes]:
    """The contents of all blobs; fails when one is not what it is named after."""
    paths = [path for path in Path(storage.root).glob("*/*/*/*") if ".stor" not in path.parts]
    contents = [path.read_bytes() for path in paths]
    assert [path.name for path in paths] == [f"{hashlib.sha256(data).hexdigest().upper()}.dat" for data in contents]
    return contents


def beside(storage: Directory, kind: str) -> list[Path]:
    """What is kept beside the blobs: `tmp`, `quarantine`, `repair`."""
    directory = Path(storage.root, ".stor", kind)
    return sorted(directory.iterdir()) if directory.is_dir() else []


def temporaries(*storages: Directory) -> list[Path]:
    return [path for storage in storages for path in beside(storage, "tmp")]


def open_below(directory: Path) -> list[str]:
    """What this process has open below a directory."""
    return [target for target in map(path_of, os.listdir("/proc/self/fd")) if target.startswith(f"{directory}/")]


def descriptors(below: Path) -> list[str]:
    """What stays open below a directory; a thread of a storage may still be at the end of its work."""
    for _ in range(200):
        if not open_below(below):
            return []
        time.sleep(0.005)
    return open_below(below)


def path_of(fd: int | str) -> str:
    """The path of an open file; none if it is closed by now."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def digest_of(replica: Replica) -> Digest:
    """Read the whole, piece by piece, and tell which blob it is."""
    hasher = hashlib.sha256()
    for offset in range(0, replica.size, READ_SIZE):
        hasher.update(replica.read(offset, min(READ_SIZE, replica.size - offset)))
    return Digest(hasher.hexdigest())


def clean_now(*storages: Directory) -> bool:
    """Whether there is no temporary, and nothing open, at this moment."""
    return not temporaries(*storages) and not [path for storage in storages for path in open_below(Path(storage.root))]


# Pools


def pool_of(
    *sets: Iterable[Directory],
    verify_first: int = 1 << 20,
    verifier: Verifier | None = None,
    events: list[Event] | None = None,
    sweep_period: float = 1800,
    mirrored: bool = False,
    watch: Watch | None = None,
) -> Pool:
    """A pool of the sets; what it observes is appended to `events`."""
    seen = [] if events is None else events
    groups = [ReplicaSet([Bulkhead(storage) for storage in group]) for group in sets]
    return Pool(
        groups,
        verifier=verifier or Verifier(),
        verify_first=verify_first,
        hints=Hints(NoSharedCache()),
        sweep_period=sweep_period,
        mirrored=mirrored,
        watch=watch,
        observe=seen.append,
    )


def tiers_of(pool: Pool) -> Tiers:
    """The one tier that a pool is."""
    return Tiers([Tier("pool", pool)], pool.observe)


@asynccontextmanager
async def running(*sets: Iterable[Directory], **options: Any) -> AsyncIterator[Pool]:
    """A pool with the options of `pool_of` that is started, and stopped in the end."""
    pool = pool_of(*sets, **options)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()


def body_of(*pieces: bytes, declared: int | None = None, limit: int = 1 << 40) -> Body:
    """A body that comes in these pieces; `declared` is its length unless given."""

    async def produce() -> AsyncIterator[bytes]:
        for piece in pieces:
            await asyncio.sleep(0)
            yield piece

    return Body(produce(), sum(map(len, pieces)) if declared is None else declared, limit)


def chunked(*pieces: bytes, limit: int = 1 << 40) -> Body:
    """A body whose length is not known before its end."""
    return Body(body_of(*pieces).pieces, None, limit)


# Another user


NOBODY = 65_534


@contextmanager
def as_nobody(*directories: Path) -> Iterator[None]:
    """Be a user who may not read everything, and has some directories to write to."""
    needs.root("be somebody else")
    for directory in directories:
        os.chown(directory, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


# A system, and disks, that fail


class Hanging(Directory):
    """A storage that hangs when it is entered, until it is let go."""

    def __init__(self, root: str, **options: Any) -> None:
        super().__init__(root, **options)
        self.go_on = threading.Event()
        self.entered = threading.Event()

    def open_for_writing(self) -> OpenDirectory:
        self.entered.set()
        assert self.go_on.wait(20)
        return super().open_for_writing()


@contextmanager
def no_thread_to_give() -> Iterator[None]:
    """No thread can be started, as when the system, or its bound for a user or a container, has no more of them."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield


def break_disk(
    monkeypatch: pytest.MonkeyPatch, call: str, below: Path | str, code: int = errno.EIO, *, from_offset: int = 0
) -> None:
    """Let a call of `os` on descriptors fail for the files below a directory (reads: from an offset on)."""
    real = getattr(os, call)

    def fails(fd: int, *arguments: Any) -> Any:
        late = not call.startswith("pread") or arguments[1] >= from_offset
        if late and f"{path_of(fd)}/".startswith(f"{below}/"):
            raise OSError(code, os.strerror(code))
        return real(fd, *arguments)

    monkeypatch.setattr(os, call, fails)


@contextmanager
def bad_sector(path: Path) -> Iterator[threading.Event]:
    """Let every read of a file wait until the event is set, and fail then; what comes in its place is read."""
    over, inode, real = threading.Event(), path.stat().st_ino, {call: getattr(os, call) for call in ("pread", "preadv")}

    def pread(fd: int, size: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == inode:
            over.wait(20)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        data: bytes = real["pread"](fd, size, offset)
        return data

    def preadv(fd: int, *arguments: Any) -> int:
        if os.fstat(fd).st_ino == inode:
            raise BlockingIOError
        count: int = real["preadv"](fd, *arguments)
        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", pread)
        patch.setattr(os, "preadv", preadv)
        try:
            yield over
        finally:
            over.set()


def break_reads(monkeypatch: pytest.MonkeyPatch, below: Path | str, *, from_offset: int = 0) -> None:
    """Let every way to read fail with EIO from an offset on."""
    for call in ("pread", "preadv"):
        break_disk(monkeypatch, call, below, from_offset=from_offset)
    real = os.sendfile

    def fails(socket: int, fd: int, offset: int, size: int) -> int:
        if offset + size > from_offset and f"{path_of(fd)}/".startswith(f"{below}/"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(socket, fd, offset, size)

    monkeypatch.setattr(os, "sendfile", fails)


def in_the_way(storage: Directory, directory: str) -> None:
    """Put a file in the place of a directory."""
    path = Path(storage.root, directory)
    path.rmdir()
    path.write_bytes(b"")
