"""The metrics there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of durations, in seconds."""

WIDTH: Final = len(BOUNDS) + 2
"""The numbers of a histogram: a bucket for each bound, one for what is over the last, and the sum."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name without the suffix of its kind, what it means, and its labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """The numbers that each combination of labels has."""
        return WIDTH if self.kind == "histogram" else 1


FAMILIES: Final = (
    Family("stor_requests", "counter", "Requests that were answered, or cut.", ("method", "status")),
    Family("stor_request_duration_seconds", "histogram", "From the request's headers to its end.", ("method",)),
    Family("stor_received_bytes", "counter", "Bytes of request bodies."),
    Family("stor_sent_bytes", "counter", "Bytes of response bodies."),
    Family("stor_uploads_in_flight", "gauge", "Uploads that have begun and are not answered."),
    Family("stor_request_failures", "counter", "Requests that failed in a way that nobody foresaw.", ("method",)),
    Family("stor_malformed_names", "counter", "Requests for what is no SHA-256.", ("method",)),
    Family("stor_health_checks", "counter", "Good answers to /status."),
    Family(
        "stor_blobs_served",
        "counter",
        "Answers with a blob or a part of it, to a HEAD without its bytes.",
        ("storage", "tier"),
    ),
    Family("stor_served_bytes", "counter", "Bytes of blobs that were sent.", ("storage", "tier")),
    Family("stor_blobs_missing", "counter", "Blobs that were asked for and that no tier has."),
    Family("stor_archive_misses", "counter", "Blobs that the archive was asked for and has not."),
    Family("stor_blobs_stored", "counter", "Blobs that were stored."),
    Family("stor_stored_bytes", "counter", "Bytes of the blobs that were stored, each blob counted once."),
    Family("stor_blobs_duplicate", "counter", "Blobs that were sent and are stored already."),
    Family("stor_uploads_refused", "counter", "Uploads that were not stored.", ("reason",)),
    Family("stor_lookups", "counter", "Times the storages were looked through for a blob."),
    Family("stor_lookup_attempts", "counter", "Storages that were asked meanwhile."),
    Family("stor_location_cache_hits", "counter", "Blobs whose location was known."),
    Family("stor_location_cache_misses", "counter", "Blobs whose location was not known."),
    Family("stor_promotions_failed", "counter", "Blobs of the archive that could not be stored in the pool."),
    Family("stor_storage_failures", "counter", "Times a storage did not do what it was asked.", ("storage",)),
    Family(
        "stor_bad_replicas",
        "counter",
        "Replicas that are not the blob they are named after, each counted once by each worker that finds it.",
        ("storage",),
    ),
    Family("stor_replicas_repaired", "counter", "Replicas that were missing or bad and are good again.", ("storage",)),
    Family("stor_replicas_quarantined", "counter", "Bad replicas that were put into quarantine.", ("storage",)),
    Family("stor_leftovers_swept", "counter", "Temporaries of dead processes that were removed.", ("storage",)),
    Family("stor_neighbour_errors", "counter", "Times a neighbour did not do what it was asked.", ("neighbour",)),
    Family("stor_storage_up", "gauge", "1 if the storage is used, 0 if it is not there or fails.", ("storage",)),
    Family("stor_breaker_state", "gauge", "0: closed, 1: open for writes, 2: open, nothing is asked.", ("storage",)),
    Family("stor_storage_size_bytes", "gauge", "How large the storage is.", ("storage",)),
    Family("stor_storage_free_bytes", "gauge", "What is free on the storage.", ("storage",)),
    Family("stor_queue_length", "gauge", "Entries of a queue of work that was put off.", ("queue",)),
    Family("stor_queue_done", "counter", "Entries that were worked off.", ("queue",)),
    Family("stor_queue_bytes", "counter", "Bytes that were copied, or read to be verified, for that.", ("queue",)),
    Family("stor_workers", "gauge", "Worker processes that live."),
    Family("stor_build_info", "gauge", "1; the label tells the version.", ("version",)),
)

BY_NAME: Final = {family.name: family for family in FAMILIES}
