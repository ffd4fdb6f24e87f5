"""Numbers as `prometheus_client` wants them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from pystor.adapters.prometheus.families import BOUNDS, Family


def metric(family: Family, rows: Sequence[tuple[tuple[str, ...], list[float]]]) -> Metric:
    """Tell a family: for each combination of labels its numbers."""
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, numbers in rows:
            histogram.add_metric(_written(labels), _buckets(numbers[:-1]), numbers[-1])
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    plain = kind(family.name, family.help, labels=family.labels)
    for labels, numbers in rows:
        plain.add_metric(_written(labels), numbers[0])
    return plain


def _written(labels: Sequence[str]) -> list[str]:
    """Write labels as text; a path may hold bytes that are no characters."""
    return [label.encode("utf-8", "backslashreplace").decode() for label in labels]


def _buckets(counts: Sequence[float]) -> list[tuple[str, float]]:
    """Count in each bucket what is in those below as well."""
    return list(zip([*map(str, BOUNDS), "+Inf"], accumulate(counts), strict=True))
