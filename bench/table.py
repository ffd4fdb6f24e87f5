"""Comparisons as text for a terminal, and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from bench.samples import Comparison, Sample, Spread


def lines(comparison: Comparison) -> Iterator[str]:
    """Write a comparison for a terminal: a line for each peer."""
    ours = _speed(comparison, comparison.subject)
    for peer in comparison.peers():
        verdict = "".join(_verdict(comparison, peer))
        yield (
            f"{comparison.work:24} {_spread(comparison.ratio(peer)):20} of {peer:12} {verdict:16}"
            f" {ours:>12} beside {_speed(comparison, peer):>12}; {_latency(comparison, comparison.subject)},"
            f" {_cpu(comparison.rounds[comparison.subject])} CPU s/1,000"
        )


def _verdict(comparison: Comparison, peer: str) -> Iterator[str]:
    for target in comparison.targets:
        if target.peer == peer:
            yield f"{target} {'met' if target.is_met(comparison.ratio(peer).median) else 'MISSED'}"


def _spread(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.lowest:.2f} to {spread.highest:.2f})"


def _speed(comparison: Comparison, name: str) -> str:
    speed = statistics.median(comparison.speed(sample) for sample in comparison.rounds[name])
    return f"{speed:,.0f} MB/s" if comparison.by_bytes else f"{speed:,.0f}/s"


def _latency(comparison: Comparison, name: str) -> str:
    samples = comparison.rounds[name]
    p50, p99 = (statistics.median(getattr(sample, which) for sample in samples) for which in ("p50", "p99"))
    return f"p50 {_milliseconds(p50)}, p99 {_milliseconds(p99)} ms"


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _cpu(samples: Sequence[Sample]) -> str:
    return f"{statistics.median(sample.cpu_per_1000 for sample in samples):.3f}"
