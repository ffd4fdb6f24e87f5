"""The hot paths beside nginx, in under two minutes: the guard against becoming slower.

    python -m bench.quick [--seconds 1] [--rounds 5] [--workers 2] [--only "GET 4 KiB"] [--directory /mnt/data1]

Prints the ratio of each round's speeds, Stor to nginx: the median, and the lowest and highest. The rounds alternate,
with the load generator (wrk) on the same processors; a neighbour on the machine disturbs both, so ratios are what
counts. nginx stores one copy without a flush, Stor two that are durable; beside that there is a bare script that does
as much as Stor on the disk, and nothing else. At the end the instructions of one request are counted, if they can be.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from bench import blobs, instructions, peers
from bench.blobs import Bodies
from bench.comparing import reads
from bench.load import Requests
from bench.peers import Peer
from bench.samples import MIB, Comparison, Target
from bench.sections.uploads import scripts_in, targets_on
from bench.setting import Setting, clean_up_when_ended, pair_in
from bench.table import lines
from tests.support import needs

_READS = (
    ("GET 4 KiB", "GET", 4096, 1000, 0.75),
    ("GET 64 KiB", "GET", 65536, 200, 1.0),
    ("GET 1 MiB", "GET", MIB, 20, 1.0),
    ("HEAD 4 KiB", "HEAD", 4096, 1000, 0.6),
)
"""Name, method, size, number of blobs, and what is to be reached of nginx."""
_FASTEST = 20_000
"""Uploads in a second that are named in advance."""


def main() -> int:
    """Measure and print; returns 1 if a program that is needed is missing."""
    given = _arguments()
    clean_up_when_ended()
    missing = [name for name in ("wrk", "nginx") if needs.find(name) is None]
    if missing:
        print(f"install {', '.join(missing)} first")
        return 1
    with tempfile.TemporaryDirectory(prefix="stor-bench-", dir=given.directory) as name:
        setting = Setting(Path(name), given.rounds, given.seconds, given.workers)
        for comparison in _compared(setting, given.only):
            print(*lines(comparison), sep="\n", flush=True)
    return 0 if given.only else instructions.main([])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("seconds", 1), ("rounds", 5), ("workers", 2)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--only", default="", help="those works whose names have this in them")
    parser.add_argument("--directory", default="/var/tmp", help="on the filesystem that is to be measured")
    return parser.parse_args()


def _compared(setting: Setting, only: str) -> Iterator[Comparison]:
    with setting.fresh() as (room, kind):
        yield from _beside_nginx(setting, only, room, kind)


def _beside_nginx(setting: Setting, only: str, room: Path, kind: str) -> Iterator[Comparison]:
    pair = pair_in(room)
    with peers.stor(room, [pair], setting.workers) as stor, peers.nginx(room, pair[0], setting.workers) as nginx:

        def compare(work: str, requests: Callable[[Peer], Requests], least: float) -> Comparison:
            targets = (Target("nginx", least=least),)
            return setting.compare(work, [stor, nginx], requests, connections=32, targets=targets)

        for work, method, size, count, least in _READS:
            if only in work:
                digests = blobs.lay(pair, count, size)
                yield compare(work, partial(reads, digests=digests, method=method), least)
        if only in "miss, 2 storages":
            nowhere = [f"{number:064x}" for number in range(1000)]
            yield compare("miss, 2 storages", partial(reads, digests=nowhere, missing=True), 0.7)
        if only in "POST 4 KiB, durable":
            yield _posts(setting, room, kind, [stor, nginx])


def _posts(setting: Setting, room: Path, kind: str, taking_part: Sequence[Peer]) -> Comparison:
    bodies = Bodies(4096)

    def requests(peer: Peer) -> Requests:
        os.sync()
        return Requests(uploads=peer.uploads(bodies, _FASTEST * setting.seconds))

    return setting.compare(
        "POST 4 KiB, durable",
        taking_part,
        requests,
        connections=32,
        targets=targets_on(kind),
        beside=scripts_in(room, bodies.size),
    )


if __name__ == "__main__":
    sys.exit(main())
