"""Metrics for Prometheus, all workers summed.

Each worker counts in a file of its own that it maps into memory, so counting takes no lock, no system call and no
flushing, and what a worker counted outlives it. Whichever worker is asked for `/metrics` adds the files up. A worker
holds a lock on its file for as long as it lives: what only the living have (gauges) is told by that.
"""

from pystor.adapters.prometheus.collector import CONTENT_TYPE, Prometheus, StorageRow
from pystor.adapters.prometheus.families import FAMILIES

__all__ = ["CONTENT_TYPE", "FAMILIES", "Prometheus", "StorageRow"]
