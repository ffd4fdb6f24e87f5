"""The composition root: configuration in, a worker's application out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from functools import partial
from pathlib import Path

from pystor import __version__, census, wiring
from pystor.adapters.prometheus import CONTENT_TYPE, Prometheus, StorageRow
from pystor.blob import UNKNOWN_ROOM
from pystor.breaker import SharedSwitches
from pystor.bulkhead import Bulkhead
from pystor.config import Settings
from pystor.http.app import App, Service
from pystor.http.auth import Guard
from pystor.http.blobs import Blobs
from pystor.http.messages import Response, typed
from pystor.http.wire import Limits
from pystor.jobs import Queue
from pystor.observers import Observers
from pystor.pool import Pool
from pystor.promotion import Promotion

_REDIRECTED_FOR = 3600
"""Seconds for which a client may use the URL of a blob in the archive."""


def limits(settings: Settings) -> Limits:
    """Tell what one client may take."""
    return Limits(**{field.name: getattr(settings, field.name) for field in fields(Limits)})


def build(settings: Settings, shared: str) -> App:
    """Put a worker's application together; `shared` is a directory in memory that all workers have."""
    log = wiring.log_of(settings)
    prometheus = Prometheus(Path(shared), version=__version__)
    observers = Observers(log, prometheus)
    neighbours = wiring.neighbours_of(settings, observers)
    switches = SharedSwitches(f"{shared}/switches", sum(map(len, settings.storage_pairs)))
    verdicts = census.take(wiring.directories_of(settings))
    pool = wiring.pool_of(settings, observers, verdicts.values(), switches.switch, neighbours.cache)
    archive = wiring.archive_of(settings, observers)
    tiers = wiring.tiers_of(settings, pool, archive, observers)
    queues = [wiring.queue_of(settings, "repair", tiers, pool, pool, f"{shared}/repair")]
    services: list[Service] = [log, prometheus, *neighbours.services.values(), pool]
    if archive is not None:
        services.append(archive.pool)
        if settings.s3_mirror:
            queues.append(wiring.queue_of(settings, "mirror", tiers, pool, archive.pool, f"{shared}/mirror"))
            of_archive = f"{shared}/archive-repair"
            queues.append(wiring.queue_of(settings, "repair", tiers, archive.pool, archive.pool, of_archive))
        if settings.s3_promote and not settings.s3_redirect:
            promotion = Promotion(tiers, pool)
            observers.join(promotion)
            services.append(promotion)
    services += queues
    prometheus.observe_storages(partial(_storage_rows, [pool] if archive is None else [pool, archive.pool]))
    prometheus.observe_queues(partial(_lengths, queues))
    credentials = settings.basic_auth
    blobs = Blobs(
        tiers,
        pool,
        Guard(None if credentials is None else f"{credentials.user}:{credentials.password}"),
        max_blob_size=settings.max_blob_size,
        observe=observers,
        redirect=partial(archive.bucket.presign, seconds=_REDIRECTED_FOR) if archive and settings.s3_redirect else None,
    )
    return App(
        pool,
        blobs,
        observe=observers,
        limits=limits(settings),
        upload_idle_timeout=settings.upload_idle_timeout,
        services=services,
        metrics=partial(_metrics, prometheus),
    )


async def _metrics(prometheus: Prometheus) -> Response:
    return typed(200, CONTENT_TYPE.encode("ascii"), await prometheus.tell())


def _lengths(queues: Iterable[Queue]) -> Counter[str]:
    """Add up the queues of one name."""
    lengths = Counter[str]()
    for queue in queues:
        lengths[queue.name] += queue.length
    return lengths


def _storage_rows(pools: Iterable[Pool]) -> list[StorageRow]:
    return [_storage_row(member) for pool in pools for member in pool.members()]


def _storage_row(member: Bulkhead) -> StorageRow:
    space, root = member.space, member.storage.root
    if space is None or space == UNKNOWN_ROOM:
        return root, space is not None, member.switch.get(), None, None
    return root, True, member.switch.get(), space.total, space.free
