"""Rounds: each server in turn, again and again, so that a noisy neighbour disturbs all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench import clients, load, processes
from bench.load import LoadFailed, Requests
from bench.peers import Peer
from bench.samples import Comparison, Sample

Run = Callable[[], Sample]


def compare(comparison: Comparison, runs: Mapping[str, Run], rounds: int) -> Comparison:
    """Run each server once in every round, after a run that does not count; the first is the subject."""
    for number in range(rounds + 1):
        for name, run in runs.items():
            sample = _named(comparison.work, name, run)
            if number:
                comparison.add(name, sample)
    return comparison


def _named(work: str, name: str, run: Run) -> Sample:
    try:
        return run()
    except LoadFailed as error:
        raise LoadFailed(f"{work}, {name}: {error}") from None


def run_of(peer: Peer, requests: Callable[[], Requests], *, connections: int, seconds: int, directory: Path) -> Run:
    """Make a run of wrk against a server, and what it costs that server; requests are made anew for each."""

    def run() -> Sample:
        asked = requests()
        return costed(peer.session, lambda: _load(peer.url, asked, connections, seconds, directory))

    return run


def _load(url: str, asked: Requests, connections: int, seconds: int, directory: Path) -> Sample:
    if asked.method == "HEAD":
        asks = itertools.cycle([clients.request("HEAD", path) for path in asked.paths])
        return clients.run(url, asks, connections=connections, seconds=seconds)["HEAD"]
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
