"""The hot paths beside nginx, in under two minutes: the guard against becoming slower.

    python -m bench.quick [--seconds 1] [--rounds 5] [--workers 2] [--only "GET 4 KiB"] [--directory /mnt/data1]

Prints the ratio of each round's speeds, Stor to nginx: the median, and the lowest and highest. The rounds alternate,
with the load generator (wrk) on the same processors; a neighbour on the machine disturbs both, so ratios are what
counts. nginx stores one copy without a flush, Stor two that are durable; beside that there is a bare script that does
as much as Stor on the disk, and nothing else. At the end the instructions of one request are counted, if they can be.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import blobs, instructions, limits, peers
from bench.blobs import Bodies
from bench.comparing import compare, reads, run_of
from bench.load import Requests
from bench.peers import Peer
from bench.samples import MIB, Comparison, Target
from bench.table import lines
from tests.support import needs

CONNECTIONS = 32
_SIZES = (("4 KiB", 4096, 1000), ("64 KiB", 65536, 200), ("1 MiB", MIB, 20))
_TARGETS = {"4 KiB": 0.75, "64 KiB": 1.0, "1 MiB": 1.0}
_FASTEST = 20_000
"""Uploads in a second that are named in advance."""


def main() -> int:
    """Measure and print; returns 1 if a program that is needed is missing."""
    given = _arguments()
    missing = [name for name in ("wrk", "nginx") if needs.find(name) is None]
    if missing:
        print(f"install {', '.join(missing)} first")
        return 1
    with tempfile.TemporaryDirectory(prefix="stor-bench-", dir=given.directory) as name:
        directory = Path(name)
        pair = [directory / "a", directory / "b"]
        with (
            peers.stor(directory, [pair], given.workers) as stor,
            peers.nginx(directory, pair[0], given.workers) as nginx,
        ):
            _Quick(given, directory, pair, stor, nginx).run()
    return 0 if given.only else instructions.main([])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("seconds", 1), ("rounds", 5), ("workers", 2)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--only", default="", help="those works whose names have this in them")
    parser.add_argument("--directory", default="/var/tmp", help="on the filesystem that is to be measured")
    return parser.parse_args()


class _Quick:
    """The works, one after the other."""

    def __init__(self, given: argparse.Namespace, directory: Path, pair: list[Path], stor: Peer, nginx: Peer) -> None:
        self._given, self._directory, self._pair, self._peers = given, directory, pair, (stor, nginx)

    def run(self) -> None:
        for label, size, count in _SIZES:
            if self._wanted(f"GET {label}"):
                digests = blobs.lay(self._pair, count, size)
                self._read(f"GET {label}", digests, _TARGETS[label])
        if self._wanted("HEAD 4 KiB"):
            self._read("HEAD 4 KiB", blobs.lay(self._pair, 1000, 4096), 0.6, method="HEAD")
        if self._wanted("miss, 2 storages"):
            self._read("miss, 2 storages", [f"{number:064x}" for number in range(1000)], 0.7, missing=True)
        if self._wanted("POST 4 KiB, durable"):
            self._post()

    def _wanted(self, work: str) -> bool:
        return self._given.only in work

    def _read(self, work: str, digests: list[str], least: float, method: str = "GET", *, missing: bool = False) -> None:
        def requests(peer: Peer) -> Requests:
            return reads(peer, digests, method=method, missing=missing)

        self._compare(Comparison(work, targets=(Target("nginx", least=least),)), requests)

    def _post(self) -> None:
        bodies, count = Bodies(4096), _FASTEST * self._given.seconds

        def requests(peer: Peer) -> Requests:
            return Requests(uploads=peer.uploads(bodies, count))

        self._compare(Comparison("POST 4 KiB, durable", targets=(Target("script", least=0.8),)), requests)

    def _compare(self, comparison: Comparison, requests: Callable[[Peer], Requests]) -> None:
        given = self._given
        runs = {
            peer.name: run_of(
                peer, partial(requests, peer), connections=CONNECTIONS, seconds=given.seconds, directory=self._directory
            )
            for peer in self._peers
        }
        if comparison.work.startswith("POST"):
            runs["script"] = partial(limits.durable, "group", self._pair, count=3200, size=4096)
        print(*lines(compare(comparison, runs, given.rounds)), sep="\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
