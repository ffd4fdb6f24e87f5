"""Comparisons as text for a terminal, and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from bench.samples import Check, Comparison, Sample, Spread, Target

_MIB = 1 << 20


def lines(result: Comparison | Check) -> Iterator[str]:
    """Write a result for a terminal: a line for each peer."""
    if isinstance(result, Check):
        note = f" ({result.note})" if result.note else ""
        yield f"{result.work}: {_measured(result)} {result.unit}{note}; {_limit(result)}"
        return
    ours = _speed(result, result.subject)
    for peer in result.peers():
        verdict = "".join(_verdict(target, result.ratio(peer)) for target in result.targets if target.peer == peer)
        yield (
            f"{result.work:24} {_spread(result.ratio(peer)):20} of {peer:12} {verdict:16}"
            f" {ours:>12} beside {_speed(result, peer):>12}; p50 {_latency(result, result.subject, 'p50')},"
            f" p99 {_latency(result, result.subject, 'p99')} ms, {_cpu(result, result.subject)}"
        )


def _verdict(target: Target, ratio: Spread) -> str:
    return f"{target} {'met' if target.is_met(ratio.median) else 'MISSED'}"


def _limit(check: Check) -> str:
    return "no target" if check.most is None else f"< {check.most:g} {'met' if check.is_met() else 'MISSED'}"


def _measured(check: Check) -> str:
    return _spread(Spread.of(check.values))


def _spread(spread: Spread) -> str:
    return f"{_short(spread.median)} ({_short(spread.lowest)} to {_short(spread.highest)})"


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def _speed(comparison: Comparison, name: str) -> str:
    speed = statistics.median(comparison.speed(sample) for sample in comparison.rounds[name])
    return f"{speed:,.0f} MB/s" if comparison.by_bytes else f"{speed:,.0f}/s"


def _latency(comparison: Comparison, name: str, which: str) -> str:
    value = statistics.median(getattr(sample, which) for sample in comparison.rounds[name])
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _cpu(comparison: Comparison, name: str) -> str:
    samples = comparison.rounds[name]
    if comparison.by_bytes:
        return f"{statistics.median(_per_gigabyte(sample) for sample in samples):.2f} CPU s/GB"
    return f"{statistics.median(sample.cpu_per_1000 for sample in samples):.3f} CPU s/1,000"


def _per_gigabyte(sample: Sample) -> float:
    return sample.cpu_seconds / (max(sample.received, sample.sent, 1) / 1e9)


# Markdown


def targets(results: Iterable[Comparison | Check]) -> Iterator[str]:
    """Write what was to be reached beside what was: a table."""
    yield from _head("work", "beside", "measured (lowest to highest)", "target", "")
    for result in results:
        if isinstance(result, Comparison):
            for target in result.targets:
                ratio = result.ratio(target.peer)
                verdict = "met" if target.is_met(ratio.median) else "**missed**"
                yield _row(result.work, target.peer, _spread(ratio), str(target), verdict)
        elif result.most is not None:
            verdict = "met" if result.is_met() else "**missed**"
            yield _row(result.work, "itself", f"{_measured(result)} {result.unit}", f"< {result.most:g}", verdict)


def ratios(results: Sequence[Comparison | Check]) -> Iterator[str]:
    """Write how fast Stor is beside each of the others: a table."""
    comparisons = [result for result in results if isinstance(result, Comparison)]
    peers = list(dict.fromkeys(peer for comparison in comparisons for peer in comparison.peers()))
    yield from _head("work", *peers)
    for comparison in comparisons:
        yield _row(
            comparison.work,
            *(_spread(comparison.ratio(peer)) if peer in comparison.rounds else "" for peer in peers),
        )


def figures(results: Iterable[Comparison | Check]) -> Iterator[str]:
    """Write the absolute figures of every server: a table."""
    yield from _head("work", "server", "speed", "p50 ms", "p99 ms", "server's CPU", "peak MiB")
    for result in results:
        if isinstance(result, Check):
            continue
        for name, samples in result.rounds.items():
            memory = statistics.median(sample.peak_bytes for sample in samples) / _MIB
            times = [_latency(result, name, which) if any(s.p99 for s in samples) else "" for which in ("p50", "p99")]
            cost = [_cpu(result, name), f"{memory:,.0f}"] if memory else ["", ""]
            yield _row(result.work, name, _speed(result, name), *times, *cost)


def alone(results: Iterable[Comparison | Check]) -> Iterator[str]:
    """Write what was measured of Stor, or of the machine, alone: a table."""
    yield from _head("work", "measured (lowest to highest)", "of each round")
    for result in results:
        if isinstance(result, Check):
            yield _row(result.work, f"{_measured(result)} {result.unit}", result.note)


def _head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield "|" + "---|" * len(names)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
