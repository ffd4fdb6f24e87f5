"""What is nowhere: every storage has to say so, and nginx looks in one place only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench import peers
from bench.comparing import reads
from bench.samples import Comparison, Target
from bench.setting import Setting, pair_in

_TARGETS = {2: 0.7, 8: 0.45, 32: 0.2}


def misses(setting: Setting) -> Iterator[Comparison]:
    """Compare misses over more and more storages with nginx' 404."""
    nowhere = [f"{number:064x}" for number in range(1000)]
    for storages, least in _TARGETS.items():
        if not setting.has("nginx"):
            return
        with setting.room() as room:
            pairs = [pair_in(room, f"pair{number}") for number in range(storages // 2)]
            with (
                peers.stor(room, pairs, setting.workers) as stor,
                peers.nginx(room, pairs[0][0], setting.workers) as nginx,
            ):
                yield setting.compare(
                    f"GET of what is nowhere, {storages} storages, 32 connections",
                    [stor, nginx],
                    partial(reads, digests=nowhere, missing=True),
                    connections=32,
                    targets=(Target("nginx", least=least),),
                )
