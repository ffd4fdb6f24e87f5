"""Uploads of fresh blobs: Stor keeps two copies, whoever it is compared with keeps one."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench import limits, peers
from bench.blobs import Bodies
from bench.comparing import Run, costed, reads
from bench.load import Requests
from bench.peers import Peer
from bench.samples import MIB, Comparison, Sample, Target
from bench.setting import Setting, filesystem_of, pair_in

_SIZES = (("4 KiB", 4096, 60_000), ("64 KiB", 65536, 30_000), ("1 MiB", MIB, 4000))
"""Names, sizes, and uploads in a second that are named in advance: more than anybody makes."""
_SCRIPTED = 3200
_LARGE_ONES = 5  # uploads in a round: each takes a tenth of a second, in which the disk may do anything
_TAKEN = 800  # MiB that Stor takes in a second at most, in files, directories and inodes
_TAKEN_BY_OTHERS = 1500  # by all of them


def uploads(setting: Setting) -> Iterator[Comparison]:
    """Compare storing with everybody, then reading and storing at once."""
    for label, size, most in _SIZES:
        yield from _small(setting, label, Bodies(size), most)
    with setting.room() as room:  # the disk itself, since few files are made
        yield from _large(setting, room, filesystem_of(room))
    yield from itertools.islice(_small(setting, "4 KiB", Bodies(4096), _SIZES[0][2], journal=True), 1)
    with setting.fresh() as (room, _):
        yield from _mixed(setting, room)


def _small(setting: Setting, label: str, bodies: Bodies, most: int, *, journal: bool = False) -> Iterator[Comparison]:
    """Each on a filesystem of its own: what one has made there must not take the others' time."""
    runs = (setting.rounds + 1) * setting.seconds
    fresh = partial(setting.fresh, journal=journal, megabytes=2000 + _TAKEN * runs)
    with (
        fresh() as (durable, kind),
        fresh() as (loose, _),
        fresh(megabytes=2000 + _TAKEN_BY_OTHERS * runs) as (room, _),
        peers.stor(durable, [pair_in(durable)], setting.workers) as stor,
        peers.stor(loose, [pair_in(loose)], setting.workers, "stor, not durable", durability="none") as quick,
        setting.others(room, pair_in(room, "others")[0]) as (others, _),
    ):
        quick.name = "stor"
        takers = [peer for peer in others if peer.name in {"nginx", "weed filer", "rclone"}]

        def requests(peer: Peer) -> Requests:
            os.sync()  # what others left to be written does not count
            return Requests(uploads=peer.uploads(bodies, most * setting.seconds))

        scripts = scripts_in(durable, bodies.size) if label == "4 KiB" else {}
        yield setting.compare(
            f"POST {label}, durable, {kind}, 32 connections",
            [stor, *filter(None, map(_synced, takers))],
            requests,
            connections=32,
            targets=targets_on(kind) if label == "4 KiB" else (),
            beside=scripts,
        )
        yield setting.compare(
            f"POST {label}, not durable, {kind}, 32 connections",
            [quick, *takers],
            requests,
            connections=32,
            targets=(Target("weed filer", least=1.3),) if label == "4 KiB" else (),
        )


def targets_on(filesystem: str) -> tuple[Target, ...]:
    """What uploads of 4 KiB are to reach; on ext4 the journal, which all writers share, is what limits them."""
    if filesystem == "ext4":
        return (Target("script", least=0.5),)
    return Target("script", least=0.8), Target("fsync each", least=2), Target("weed filer, fsync", least=1.7)


def scripts_in(room: Path, size: int) -> dict[str, Run]:
    """Bare scripts that write durably, in a pair of directories of their own."""
    pair = pair_in(room, "scripts")

    def script(way: str) -> Run:
        def run() -> Sample:
            os.sync()
            return limits.durable(way, pair, count=_SCRIPTED, size=size)

        return run

    return {"script": script("group"), "script, flat": script("flat"), "fsync each": script("each")}


def _synced(peer: Peer) -> Peer | None:
    """The same server, with uploads that are durable; None if it has none."""
    return replace(peer, name="weed filer, fsync", query="?fsync=true") if peer.name == "weed filer" else None


def _large(setting: Setting, room: Path, kind: str) -> Iterator[Comparison]:
    """One upload at a time of 100 MiB."""
    bodies, durable = Bodies(100 * MIB), pair_in(room, "durable")
    with (
        peers.stor(room, [durable], setting.workers) as stor,
        setting.others(room, pair_in(room, "others")[0]) as (others, _),
    ):
        takers = {"stor": stor}
        takers |= {peer.name: peer for peer in map(_synced, others) if peer is not None}
        runs = {name: _sender(peer, bodies) for name, peer in takers.items()}
        yield setting.compare_runs(
            f"POST 100 MiB, durable, {kind}, 1 connection",
            {**runs, "dd": _dd(room, bodies)},
            targets=(Target("dd", least=0.8), Target("weed filer, fsync", least=1.5)),
            by_bytes=True,
        )


def _sender(peer: Peer, bodies: Bodies) -> Run:
    def stores() -> Iterator[Callable[[], None]]:
        upload = peer.uploads(bodies, _LARGE_ONES)
        for number, path in enumerate(upload.paths, upload.first):
            yield partial(peers.put, peer.url, path, bodies.body(number), upload.method, peer.headers)

    return lambda: costed(peer.session, lambda: _timed(stores(), bodies.size))


def _timed(stores: Iterable[Callable[[], object]], size: int) -> Sample:
    """Store one after the other, each when nothing is left to be written of what was before it."""
    seconds: list[float] = []
    for store in stores:
        os.sync()
        began = time.perf_counter()
        store()
        seconds.append(time.perf_counter() - began)
    sent = len(seconds) * size
    p50, p99 = statistics.median(seconds) * 1000, max(seconds) * 1000
    return Sample(requests=len(seconds), seconds=sum(seconds), sent=sent, p50=p50, p99=p99)


def _dd(room: Path, bodies: Bodies) -> Run:
    """Both files at once, by dd."""
    source = room / "source"
    source.write_bytes(bodies.body(0))
    numbers = itertools.count()

    def write() -> None:
        number = next(numbers)
        writers = [
            subprocess.Popen(
                ["dd", f"if={source}", f"of={room}/{side}{number}", "bs=1M", "conv=fsync"], stderr=subprocess.DEVNULL
            )
            for side in "ab"
        ]
        if any(writer.wait() for writer in writers):
            raise RuntimeError("dd failed")

    return lambda: _timed(itertools.repeat(write, _LARGE_ONES), bodies.size)


def _mixed(setting: Setting, room: Path) -> Iterator[Comparison]:
    """Nine reads, and then an upload."""
    from bench import blobs

    pair, bodies = pair_in(room), Bodies(4096)
    digests = blobs.lay(pair, 1000, 4096)
    with peers.stor(room, [pair], setting.workers) as stor, setting.others(room, pair[0]) as (others, weed):
        if weed is not None:
            weed.fill(pair[0], digests)
        takers = [peer for peer in others if peer.name in {"nginx", "weed filer"}]

        def requests(peer: Peer) -> Requests:
            stored = peer.uploads(bodies, 20_000 * setting.seconds, every=10)
            return replace(reads(peer, digests), uploads=stored)

        yield setting.compare(
            "9 GET and 1 POST of 4 KiB in turn, 32 connections", [stor, *takers], requests, connections=32
        )
