"""Rounds: each server in turn, again and again, so that a noisy neighbour disturbs all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench import heads, load, processes
from bench.load import Requests
from bench.peers import Peer
from bench.samples import Comparison, Sample

Run = Callable[[], Sample]


def compare(comparison: Comparison, runs: Mapping[str, Run], rounds: int) -> Comparison:
    """Run each server once in every round; the first is the subject."""
    for _ in range(rounds):
        for name, run in runs.items():
            comparison.add(name, run())
    return comparison


def run_of(peer: Peer, requests: Callable[[], Requests], *, connections: int, seconds: int, directory: Path) -> Run:
    """Make a run of wrk against a server, and what it costs that server; requests are made anew for each."""

    def run() -> Sample:
        asked = requests()
        return costed(peer.session, lambda: _load(peer.url, asked, connections, seconds, directory))

    return run


def _load(url: str, asked: Requests, connections: int, seconds: int, directory: Path) -> Sample:
    if asked.method == "HEAD":
        return heads.run(url, asked.paths, connections=connections, seconds=seconds)
    return load.run(url, asked, connections=connections, seconds=seconds, directory=directory)


def costed(session: int, run: Run) -> Sample:
    """Add to a sample what the processes of a session used meanwhile."""
    processes.forget_peaks(session)
    before = processes.cpu_seconds(session)
    sample = run()
    used = processes.cpu_seconds(session) - before
    return replace(sample, cpu_seconds=used, peak_bytes=processes.peak_bytes(session))


def reads(
    peer: Peer,
    digests: Sequence[str],
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    missing: bool = False,
) -> Requests:
    """Ask a server for blobs that it has, or for some that it has not."""
    return Requests([peer.path(digest) for digest in digests], method, headers or {}, missing=missing)
