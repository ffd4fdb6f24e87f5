"""Many blobs beside few, many storages beside two: reading should not notice."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from bench import blobs, peers
from bench.blobs import Bodies, path_of
from bench.comparing import reads
from bench.load import Requests
from bench.peers import Peer, put
from bench.samples import Comparison, Target
from bench.setting import Setting, pair_in

_FEW = 1000
_WIDE = 50_000
"""More blobs than Stor remembers the answers of, and than are asked for in a round and are nowhere."""
_LINKS = 60_000
"""Names that one file may have, on any filesystem."""
_UPLOADS = 20_000
"""More than anybody makes in a second."""


def growth(setting: Setting) -> Iterator[Comparison]:
    """Compare Stor with itself."""
    with setting.fresh(megabytes=20_000) as (room, _):
        small, large = pair_in(room, "small"), pair_in(room, "large")
        few, same = blobs.lay(small, _FEW, 4096), blobs.lay(large, _FEW, 4096)
        for storage in large:
            _crowd(storage, setting.many - _FEW)
        names = (f"{setting.many:,} blobs", f"{_FEW:,} blobs")
        with (
            peers.stor(room, [large], setting.workers, names[0]) as many_blobs,
            peers.stor(room, [small], setting.workers, names[1]) as few_blobs,
        ):
            yield _compare(setting, many_blobs, same, few_blobs, few)
    with setting.fresh() as (room, _):
        two, many = [pair_in(room, "two")], [pair_in(room, f"pair{number}") for number in range(32)]
        with (
            peers.stor(room, many, setting.workers, "64 storages", durability="none") as over_many,
            peers.stor(room, two, setting.workers, "2 storages", durability="none") as over_two,
        ):
            # Stored by Stor, which looks first where it puts blobs itself.
            yield _compare(setting, over_many, _stored(over_many), over_two, _stored(over_two))
            for work, requests in _NEW.items():
                yield setting.compare(
                    f"{work}, {over_many.name} beside {over_two.name}, 32 connections",
                    [over_many, over_two],
                    partial(requests, setting),
                    connections=32,
                )
    if setting.has("nginx"):
        yield _wide(setting)


def _wide(setting: Setting) -> Comparison:
    """Read so many blobs that each is a surprise."""
    with setting.fresh() as (room, _):
        pair = pair_in(room)
        digests = blobs.lay(pair, _WIDE, 4096)
        with (
            peers.stor(room, [pair], setting.workers) as stor,
            peers.nginx(room, pair[0], setting.workers) as nginx,
        ):
            return setting.compare(
                f"GET 4 KiB, {_WIDE:,} blobs in turn, 32 connections",
                [stor, nginx],
                partial(reads, digests=digests),
                connections=32,
            )


def _asked_for_once(_: Setting, peer: Peer) -> Requests:
    return reads(peer, [secrets.token_hex(32) for _ in range(_WIDE)], missing=True)


def _uploaded(setting: Setting, peer: Peer) -> Requests:
    return Requests(uploads=peer.uploads(Bodies(4096), _UPLOADS * setting.seconds))


_NEW: Final[dict[str, Callable[[Setting, Peer], Requests]]] = {
    "GET of what nobody has asked for": _asked_for_once,
    "POST 4 KiB, not durable": _uploaded,
}
"""What no storage has, and the kernel does not know that yet: each has to be asked."""


def _stored(peer: Peer) -> list[str]:
    upload = peer.uploads(bodies := Bodies(4096), _FEW)
    for number, path in enumerate(upload.paths, upload.first):
        put(peer.url, path, bodies.body(number), upload.method, upload.headers)
    return [path.rpartition("/")[2] for path in upload.paths]


def _compare(setting: Setting, more: Peer, its: Sequence[str], fewer: Peer, theirs: Sequence[str]) -> Comparison:
    digests = {more.name: its, fewer.name: theirs}
    return setting.compare(
        f"GET 4 KiB, {more.name} beside {fewer.name}, 32 connections",
        [more, fewer],
        lambda peer: reads(peer, digests[peer.name]),
        connections=32,
        targets=(Target(fewer.name, least=0.8),),
    )


def _crowd(storage: Path, count: int) -> None:
    """Fill a storage with replicas that nobody reads: names of a few files."""
    source = storage
    for number in range(count):
        if number % _LINKS == 0:
            source = storage / f".source{number}"
            source.write_bytes(os.urandom(4096))
        name = storage / path_of(secrets.token_hex(32))
        name.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, name)
