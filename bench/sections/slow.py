"""Who waits for whom: hot reads beside cold ones, reads beside uploads, small uploads beside large ones."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bench import blobs, clients, load, peers
from bench.blobs import Bodies, path_of
from bench.comparing import reads
from bench.load import Requests
from bench.peers import Peer
from bench.samples import MIB, Check
from bench.setting import Setting, pair_in
from tests.support import processes

_BLKIO = Path("/sys/fs/cgroup/blkio")
_READS_A_SECOND = 200
_COLD = 4000


def slow(setting: Setting) -> Iterator[Check]:
    """Measure 99th percentiles of Stor alone, with and without what disturbs."""
    with setting.fresh() as (room, _):
        yield _beside_uploads(setting, room)
    with setting.room() as room:  # what large ones do to the disk is what counts, with nothing between
        yield _small_beside_large(setting, room)
    with setting.image("mkfs.ext4", "-q", megabytes=1000) as point, setting.room() as room:
        if point is not None and _BLKIO.is_dir():
            yield from _beside_cold(setting, room, point)
        else:
            setting.left_out.append(
                "hot reads beside cold ones: needs root and blkio of cgroup v1, to slow a disk down"
            )


def _beside_uploads(setting: Setting, room: Path) -> Check:
    """GET by 32 connections, then the same with every tenth request a durable upload."""
    pair, bodies = pair_in(room), Bodies(4096)
    digests = blobs.lay(pair, 1000, 4096)
    check = Check("GET p99, 32 connections, while 10 % are durable uploads", "times that without", 5)
    with peers.stor(room, [pair], setting.workers) as stor:
        gets = [clients.request("GET", f"/{digest}") for digest in digests]
        for number in range(setting.rounds + 1):
            os.sync()
            alone = clients.run(stor.url, itertools.cycle(gets), connections=32, seconds=setting.seconds)["GET"]
            mixed = clients.run(stor.url, _mixed(stor, gets, bodies), connections=32, seconds=setting.seconds)["GET"]
            _note(check, number, mixed.p99, alone.p99)
    return check


def _note(check: Check, number: int, disturbed: float, alone: float) -> None:
    """Note a round; the first warms up."""
    if number:
        check.values.append(disturbed / alone)
        check.note += f"{', ' if check.note else ''}{disturbed:.1f} and {alone:.1f} ms"


def _mixed(peer: Peer, gets: Sequence[clients.Request], bodies: Bodies) -> Iterator[clients.Request]:
    read = itertools.cycle(gets)
    while True:
        yield from itertools.islice(read, 9)
        upload = peer.uploads(bodies, 1)
        yield clients.request(peer.method, upload.paths[0], peer.headers, bodies.body(upload.first))


def _small_beside_large(setting: Setting, room: Path) -> Check:
    """Uploads of 4 KiB by 8 connections, then the same while two uploads of 100 MiB follow each other."""
    small, large = Bodies(4096), Bodies(100 * MIB)
    check = Check("p99 of small durable uploads while two of 100 MiB run", "times that without", 3)
    with peers.stor(room, [pair_in(room)], setting.workers) as stor:

        def p99() -> float:
            uploads = Requests(uploads=stor.uploads(small, 20_000 * setting.seconds))
            return load.run(stor.url, uploads, connections=8, seconds=setting.seconds, directory=room).p99

        for number in range(setting.rounds + 1):
            os.sync()
            alone = p99()
            with _busy(stor.url, [_uploader(stor, large)] * 2):
                disturbed = p99()
            _note(check, number, disturbed, alone)
    return check


def _uploader(peer: Peer, bodies: Bodies) -> Callable[[http.client.HTTPConnection], None]:
    def send(connection: http.client.HTTPConnection) -> None:
        upload = peer.uploads(bodies, 1)
        connection.request(peer.method, upload.paths[0], bodies.body(upload.first), peer.headers)
        connection.getresponse().read()

    return send


@contextlib.contextmanager
def _busy(url: str, workers: Sequence[Callable[[http.client.HTTPConnection], None]]) -> Iterator[None]:
    """Have each of them work, again and again, in a thread and on a connection of its own."""
    over = threading.Event()

    def work(do: Callable[[http.client.HTTPConnection], None]) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
        with contextlib.closing(connection):
            while not over.is_set():
                do(connection)

    threads = [threading.Thread(target=work, args=(do,)) for do in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _beside_cold(setting: Setting, room: Path, point: Path) -> Iterator[Check]:
    """GET of what is in the cache by 32 connections, while 8 clients read what is not, from a slow disk."""
    hot, cold = pair_in(room), pair_in(point)
    known, unknown = blobs.lay(hot, 1000, 4096), blobs.lay(cold, _COLD, 4096)
    beside = Check("p99 of hot GET, 32 connections, while 8 clients read cold blobs from a disk of 200 IO/s", "ms", 20)
    alone = Check("the same without the cold ones", "ms", None)
    fresh, done = itertools.cycle(unknown), list[bool]()
    with peers.stor(room, [hot, cold], setting.workers) as stor, _slowed(stor, point):

        def p99() -> float:
            return load.run(stor.url, reads(stor, known), connections=32, seconds=setting.seconds, directory=room).p99

        def read_cold(connection: http.client.HTTPConnection) -> None:
            connection.request("GET", f"/{next(fresh)}")
            connection.getresponse().read()
            done.append(True)

        p99()
        for _ in range(setting.rounds):
            alone.values.append(p99())
            _chill(cold, unknown)
            done.clear()
            with _busy(stor.url, [read_cold] * 8):
                beside.values.append(p99())
            beside.note += f"{', ' if beside.note else ''}{len(done)} cold blobs"
    yield beside
    yield alone


def _chill(storages: Sequence[Path], digests: Sequence[str]) -> None:
    """Take files out of the page cache."""
    os.sync()
    for storage, digest in itertools.product(storages, digests):
        fd = os.open(storage / path_of(digest), os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


@contextlib.contextmanager
def _slowed(peer: Peer, point: Path) -> Iterator[None]:
    """Let the processes of a server read so many times a second from a disk, as cgroup v1 can."""
    group = _BLKIO / f"stor-bench-{os.getpid()}"
    group.mkdir()
    device = os.stat(point).st_dev
    rule = f"{os.major(device)}:{os.minor(device)} {_READS_A_SECOND}"
    (group / "blkio.throttle.read_iops_device").write_text(rule)
    for pid in processes.in_session(peer.session):
        (group / "cgroup.procs").write_text(str(pid))
    try:
        yield
    finally:
        for pid in processes.in_session(peer.session):
            (_BLKIO / "cgroup.procs").write_text(str(pid))
        group.rmdir()
