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
    """Run each server once in every round, after a run that does not count.

    Of another than the subject that fails nothing is kept but why it did; the subject must not fail.
    """
    running = dict(runs)
    for number in range(rounds + 1):
        for name, run in list(running.items()):
            try:
                sample = run()
            except LoadFailed as error:
                _leave_out(comparison, running, name, error)
                continue
            if number:
                comparison.add(name, sample)
    return comparison


def _leave_out(comparison: Comparison, running: dict[str, Run], name: str, error: LoadFailed) -> None:
    if name == comparison.subject:
        raise LoadFailed(f"{comparison.work}, {name}: {error}")
    del running[name]
    comparison.rounds.pop(name, None)
    comparison.failures[name] = str(error)


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
