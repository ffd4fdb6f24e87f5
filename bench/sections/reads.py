"""GET, HEAD and ranges of blobs that are in the page cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from bench import blobs, peers
from bench.comparing import reads as requests
from bench.peers import Peer
from bench.samples import MIB, Comparison, Target
from bench.setting import Setting, pair_in

_SIZES = (("4 KiB", 4096, 1000), ("64 KiB", 65536, 200), ("1 MiB", MIB, 40), ("100 MiB", 100 * MIB, 1))
_TARGETS = {
    "4 KiB": (
        Target("nginx", least=0.75),
        Target("weed volume", least=2),
        Target("weed filer", least=6),
        Target("caddy", least=2),
    ),
    "64 KiB": (Target("nginx", least=1),),
    "1 MiB": (Target("nginx", least=1),),
    "100 MiB": (Target("nginx", least=1),),
}
_TARGETS_AT = 32
_RANGE = {"Range": "bytes=500000-565535"}


def reads(setting: Setting) -> Iterator[Comparison]:
    """Compare reading with everybody."""
    with setting.room() as room:
        pair = pair_in(room)
        known = {label: blobs.lay(pair, count, size) for label, size, count in _SIZES}  # first: rclone looks but once
        with peers.stor(room, [pair], setting.workers) as stor, setting.others(room, pair[0]) as (others, weed):
            for label, digests in known.items():
                if weed is not None:
                    weed.fill(pair[0], digests)
                yield from _gets(setting, label, [stor, *others], digests)
            yield _heads(setting, [stor, *others], known["4 KiB"])
            yield setting.compare(
                "GET, a range of 64 KiB of 1 MiB, 32 connections",
                [stor, *others],
                partial(requests, digests=known["1 MiB"], headers=_RANGE),
                connections=32,
            )


def _gets(setting: Setting, label: str, taking_part: Sequence[Peer], digests: list[str]) -> Iterator[Comparison]:
    large = label == "100 MiB"
    for connections in setting.connections:
        yield setting.compare(
            f"GET {label}, {connections} connection{'s' if connections > 1 else ''}",
            taking_part,
            partial(requests, digests=digests),
            connections=connections,
            targets=_TARGETS[label] if connections == _TARGETS_AT else (),
            by_bytes=large,
        )


def _heads(setting: Setting, taking_part: Sequence[Peer], digests: list[str]) -> Comparison:
    return setting.compare(
        "HEAD 4 KiB, 32 connections",
        [peer for peer in taking_part if peer.name in {"stor", "nginx", "caddy", "weed volume"}],
        partial(requests, digests=digests, method="HEAD"),
        connections=32,
        targets=(Target("nginx", least=0.6),),
    )
