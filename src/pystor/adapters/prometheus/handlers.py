"""How each event is counted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from pystor.adapters.prometheus.families import BOUNDS, WIDTH
from pystor.adapters.prometheus.sheet import Sheet, Slots
from pystor.events import (
    AnsweredAtOnce,
    ArchiveMissed,
    BlobDuplicate,
    BlobMissing,
    BlobServed,
    BlobStored,
    HealthChecked,
    HintAsked,
    JobDone,
    LeftoversSwept,
    LookedUp,
    MalformedName,
    NeighbourFailed,
    PromotionFailed,
    ReplicaBad,
    ReplicaRepaired,
    RequestBegan,
    RequestEnded,
    RequestFailed,
    StorageFailed,
    UploadEnded,
    UploadRefused,
)

_SERVED: Final = frozenset({200, 206})
_SHORT: Final = BOUNDS[0]
"""Seconds within which most is answered."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "PATCH"})
"""The methods that are told apart; a client can invent more than anybody wants to store."""


def handlers(sheet: Sheet) -> dict[type, Callable[[Any], None]]:
    """Tell how each event is counted. Plain sums of an event go through two small makers, the rest is spelled out."""
    values = sheet.values

    def plain(name: str) -> Callable[[Any], None]:
        slot = sheet.slot(name, ())

        def count(_: object) -> None:
            values[slot] += 1

        return count

    def by(label: Callable[[Any], str], **sums: Callable[[Any], float]) -> Callable[[Any], None]:
        parts = [(Slots(sheet, name), amount) for name, amount in sums.items()]

        def count(event: object) -> None:
            for slots, amount in parts:
                values[slots[label(event)]] += amount(event)

        return count

    return {
        RequestBegan: _request_began(sheet),
        UploadEnded: _upload_ended(sheet),
        RequestEnded: _request_ended(sheet),
        AnsweredAtOnce: _answered_at_once(sheet),
        HintAsked: _hint_asked(sheet),
        LookedUp: _looked_up(sheet),
        BlobServed: _blob_served(sheet),
        BlobStored: _blob_stored(sheet),
        HealthChecked: plain("stor_health_checks"),
        BlobMissing: plain("stor_blobs_missing"),
        ArchiveMissed: plain("stor_archive_misses"),
        PromotionFailed: plain("stor_promotions_failed"),
        BlobDuplicate: plain("stor_blobs_duplicate"),
        MalformedName: by(lambda event: event.method, stor_malformed_names=_once),
        RequestFailed: by(lambda event: event.method, stor_request_failures=_once),
        UploadRefused: by(lambda event: event.reason, stor_uploads_refused=_once),
        StorageFailed: by(lambda event: event.error.storage, stor_storage_failures=_once),
        ReplicaBad: by(lambda event: event.storage, stor_bad_replicas=_once),
        NeighbourFailed: by(lambda event: event.neighbour, stor_neighbour_errors=_once),
        LeftoversSwept: by(lambda event: event.storage, stor_leftovers_swept=lambda event: event.count),
        JobDone: by(lambda event: event.queue, stor_queue_done=_once, stor_queue_bytes=lambda event: event.size),
        ReplicaRepaired: by(
            lambda event: event.storage,
            stor_replicas_repaired=_once,
            stor_replicas_quarantined=lambda event: event.quarantined,
        ),
    }


def _once(_: object) -> float:
    return 1


def _request_began(sheet: Sheet) -> Callable[[RequestBegan], None]:
    values, uploads = sheet.values, sheet.slot("stor_uploads_in_flight", ())

    def count(event: RequestBegan) -> None:
        if event.method == "post":
            values[uploads] += 1

    return count


def _upload_ended(sheet: Sheet) -> Callable[[UploadEnded], None]:
    values, uploads = sheet.values, sheet.slot("stor_uploads_in_flight", ())

    def count(_: UploadEnded) -> None:
        values[uploads] -= 1

    return count


def _request_ended(sheet: Sheet) -> Callable[[RequestEnded], None]:
    values = sheet.values
    received, sent = sheet.slot("stor_received_bytes", ()), sheet.slot("stor_sent_bytes", ())
    requests, durations = Slots(sheet, "stor_requests"), Slots(sheet, "stor_request_duration_seconds")

    def count(event: RequestEnded) -> None:
        method = event.method if event.method in _METHODS else "other"
        values[requests[method, event.status]] += 1
        slot, seconds = durations[method], event.seconds
        values[slot + bisect_left(BOUNDS, seconds)] += 1
        values[slot + WIDTH - 1] += seconds
        values[received] += event.received
        values[sent] += event.sent

    return count


def _answered_at_once(sheet: Sheet) -> Callable[[AnsweredAtOnce], None]:
    """Count all parts in one go: most of what is answered comes by here. The methods are GET and HEAD."""
    values, sent = sheet.values, sheet.slot("stor_sent_bytes", ())
    requests, durations = Slots(sheet, "stor_requests"), Slots(sheet, "stor_request_duration_seconds")
    hits, misses = sheet.slot("stor_location_cache_hits", ()), sheet.slot("stor_location_cache_misses", ())
    lookups, attempts = sheet.slot("stor_lookups", ()), sheet.slot("stor_lookup_attempts", ())
    blobs, sizes = Slots(sheet, "stor_blobs_served"), Slots(sheet, "stor_served_bytes")
    nowhere = sheet.slot("stor_blobs_missing", ())

    @cache
    def of_answers(method: str, status: int) -> tuple[int, int]:
        return requests[method, status], durations[method]

    @cache
    def of_blobs(storage: str, tier: str) -> tuple[int, int]:
        return blobs[storage, tier], sizes[storage, tier]

    def count(event: AnsweredAtOnce) -> None:
        method, _, status, _, hinted, asked, size, seconds, _, storage, tier = event
        answers, duration = of_answers(method, status)
        values[answers] += 1.0  # floats, as they are kept: to add a number of another kind takes longer
        values[duration + (bisect_left(BOUNDS, seconds) if seconds > _SHORT else 0)] += 1.0
        values[duration + WIDTH - 1] += seconds
        values[sent] += size
        if hinted is not None:
            values[hits if hinted else misses] += 1.0
        values[lookups] += 1.0
        values[attempts] += asked
        if storage is None or tier is None:
            values[nowhere] += 1.0
        elif status in _SERVED:
            served, bytes_served = of_blobs(storage, tier)
            values[served] += 1.0
            values[bytes_served] += size

    return count


def _hint_asked(sheet: Sheet) -> Callable[[HintAsked], None]:
    values = sheet.values
    hits, misses = sheet.slot("stor_location_cache_hits", ()), sheet.slot("stor_location_cache_misses", ())

    def count(event: HintAsked) -> None:
        values[hits if event.hit else misses] += 1

    return count


def _looked_up(sheet: Sheet) -> Callable[[LookedUp], None]:
    values, lookups, attempts = sheet.values, sheet.slot("stor_lookups", ()), sheet.slot("stor_lookup_attempts", ())

    def count(event: LookedUp) -> None:
        values[lookups] += 1
        values[attempts] += event.attempts

    return count


def _blob_served(sheet: Sheet) -> Callable[[BlobServed], None]:
    values, blobs, sizes = sheet.values, Slots(sheet, "stor_blobs_served"), Slots(sheet, "stor_served_bytes")

    def count(event: BlobServed) -> None:
        key = (event.storage, event.tier)
        values[blobs[key]] += 1
        values[sizes[key]] += event.size

    return count


def _blob_stored(sheet: Sheet) -> Callable[[BlobStored], None]:
    values, blobs, sizes = sheet.values, sheet.slot("stor_blobs_stored", ()), sheet.slot("stor_stored_bytes", ())

    def count(event: BlobStored) -> None:
        values[blobs] += 1
        values[sizes] += event.size

    return count
