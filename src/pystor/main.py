"""The composition root: configuration in, a worker's application out; and what operators do beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path

from pystor import __version__, doctor, wiring
from pystor.adapters import logs
from pystor.adapters.prometheus import CONTENT_TYPE, Prometheus, StorageRow
from pystor.blob import UNKNOWN_ROOM
from pystor.breaker import SharedSwitches
from pystor.bulkhead import Bulkhead
from pystor.config import Settings
from pystor.copying import copy
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import ConfigError, StorageError, StorError
from pystor.http.app import App, Service
from pystor.http.auth import Guard
from pystor.http.blobs import Blobs
from pystor.http.messages import typed
from pystor.http.wire import Limits
from pystor.marker import Marker, is_mount, new_id
from pystor.pool import Pool
from pystor.promotion import Promotion
from pystor.tiers import Tiers
from pystor.wiring import Crowd

_REDIRECTED_FOR = 3600
"""Seconds for which a client may use the URL of a blob in the archive."""


def prepare(settings: Settings) -> list[str]:
    """Adopt the storages that are new, before any worker starts; returns a line for each that is not usable.

    A storage without a marker is new only if no other storage of its set has one: otherwise it is a mount point whose
    disk is missing, or a replacement that an operator has to put in place deliberately.
    """
    return [
        line
        for pair in settings.storage_pairs
        for line in _prepare_set([wiring.directory_of(settings, place) for place in pair if isinstance(place, Path)])
    ]


def _prepare_set(storages: list[Directory]) -> list[str]:
    problems: list[str] = []
    known: list[str] = []
    unmarked: list[Directory] = []
    for storage in storages:
        try:
            known.append(storage.attach().replica_set)
        except StorageError as error:
            unmarked.append(storage)
            problems.append(error.describe())
    if known:
        return problems
    replica_set = new_id()
    return [line for storage in unmarked for line in _adopt(storage, replica_set)]


def _adopt(storage: Directory, replica_set: str) -> list[str]:
    try:
        storage.adopt(replica_set)
    except StorageError as error:
        return [error.describe()]
    return []


def limits(settings: Settings) -> Limits:
    """Tell what one client may take."""
    return Limits(**{field.name: getattr(settings, field.name) for field in fields(Limits)})


def build(settings: Settings, shared: str) -> App:
    """Put a worker's application together; `shared` is a directory in memory that all workers have."""
    log = log_of(settings)
    prometheus = Prometheus(Path(shared), version=__version__)
    crowd = Crowd(log, prometheus)
    neighbours = wiring.neighbours_of(settings, crowd)
    switches = SharedSwitches(f"{shared}/switches", sum(map(len, settings.storage_pairs)))
    pool = wiring.pool_of(settings, crowd, switches.switch, neighbours.cache)
    archive = wiring.archive_of(settings, crowd)
    tiers = wiring.tiers_of(settings, pool, archive.pool if archive else None, crowd)
    queues = {"repair": wiring.queue_of(settings, "repair", tiers, pool, pool)}
    services: list[Service] = [log, prometheus, *neighbours.services.values(), pool]
    if archive is not None:
        services.append(archive.pool)
        if settings.s3_mirror:
            queues["mirror"] = wiring.queue_of(settings, "mirror", tiers, pool, archive.pool)
        if settings.s3_promote:
            promotion = Promotion(tiers, pool)
            crowd.join(promotion)
            services.append(promotion)
    services += queues.values()
    prometheus.observe_storages(partial(_storage_rows, [pool] if archive is None else [pool, archive.pool]))
    prometheus.observe_queues(lambda: {name: queue.length for name, queue in queues.items()})
    credentials = settings.basic_auth
    blobs = Blobs(
        tiers,
        pool,
        Guard(None if credentials is None else f"{credentials.user}:{credentials.password}"),
        max_blob_size=settings.max_blob_size,
        observe=crowd,
        redirect=partial(archive.bucket.presign, seconds=_REDIRECTED_FOR) if archive and settings.s3_redirect else None,
    )
    return App(
        pool,
        blobs,
        observe=crowd,
        limits=limits(settings),
        upload_idle_timeout=settings.upload_idle_timeout,
        services=services,
        metrics=lambda: typed(200, CONTENT_TYPE.encode("ascii"), prometheus.render()),
    )


def _storage_rows(pools: Iterable[Pool]) -> list[StorageRow]:
    return [_storage_row(member) for pool in pools for member in pool.members()]


def _storage_row(member: Bulkhead) -> StorageRow:
    space, root = member.space, member.storage.root
    if space is None or space == UNKNOWN_ROOM:
        return root, space is not None, member.state, None, None
    return root, True, member.state, space.total, space.free


def log_of(settings: Settings) -> logs.Logs:
    """Send the log where the configuration says."""
    return logs.set_up(
        [(output.kind, dict(output.options)) for output in settings.log],
        style=settings.log_format,
        level=settings.log_level,
        access=settings.access_log,
    )


def problems(settings: Settings) -> list[str]:
    """Tell what only the parts themselves can say of their configuration, a line for each thing to mend."""
    return logs.problems([(output.kind, dict(output.options)) for output in settings.log])


# What operators do


async def repair(settings: Settings, tell: Callable[[str], None], *, everything: bool = False) -> int:
    """Work the repair queue off, now; `tell` gets a line for each blob. Returns how many could not be repaired.

    `everything`: look first through all storages for blobs that are missing on another one of their set.
    """
    pool = wiring.pool_of(settings, logs.log)
    archive = wiring.archive_of(settings, logs.log)
    tiers = wiring.tiers_of(settings, pool, archive.pool if archive else None, logs.log)
    repairs = wiring.queue_of(settings, "repair", tiers, pool, pool)
    await pool.start()
    try:
        failed = await _repair_missing(pool, tiers, tell) if everything else 0
        return failed + await repairs.work_off_all(lambda digest, outcome: tell(f"{digest.hex}  {outcome}"))
    finally:
        await pool.stop()


async def _repair_missing(pool: Pool, tiers: Tiers, tell: Callable[[str], None]) -> int:
    failed = 0
    for digest in missing_in(pool):
        try:
            await copy(tiers, pool, digest)
            outcome = "done"
        except StorError as error:
            outcome = str(error)
            failed += 1
        tell(f"{digest.hex}  {outcome}")
    return failed


def missing_in(pool: Pool) -> Iterator[Digest]:
    """Go through the blobs that some directory of a set has and another has not."""
    for replica_set in pool.sets:
        directories = [member.storage for member in replica_set.members if isinstance(member.storage, Directory)]
        for storage in directories:
            others = [other for other in directories if other is not storage]
            for digest in storage.scan():
                if not all(_has(other, digest) for other in others):
                    yield digest


def _has(storage: Directory, digest: Digest) -> bool:
    replica = storage.open(digest)
    if replica is not None:
        replica.close()
    return replica is not None


def adopt(settings: Settings, root: Path) -> None:
    """Make an empty disk the storage that is configured at its place; raises `StorageError`, and `ConfigError`."""
    pair = next((pair for pair in settings.storage_pairs if root in pair), None)
    if pair is None:
        raise ConfigError([f"{root}: no storage of the configuration; give one of storage_pairs"])
    others = [wiring.directory_of(settings, other) for other in pair if isinstance(other, Path) and other != root]
    known = [found for found in map(_marker_of, others) if found is not None]
    if (
        settings.require_mount is None
        and all(found.own_device for found in known)
        and known
        and not is_mount(str(root))
    ):
        line = f"{root}: is not mounted, as the others of its pair are: mount the disk (or set require_mount to false)"
        raise ConfigError([line])
    wiring.directory_of(settings, root).adopt(known[0].replica_set if known else new_id())


def _marker_of(storage: Directory) -> Marker | None:
    try:
        return storage.attach()
    except StorageError:
        return None


async def examine(settings: Settings, tell: Callable[[str], None]) -> int:
    """Ask each storage and each neighbour; `tell` gets a line for each. Returns how many are not well."""
    archive = wiring.archive_of(settings, logs.log)
    sets = [[wiring.storage_of(settings, place) for place in pair] for pair in settings.storage_pairs]
    if archive is not None:
        sets.append([archive.bucket])
    neighbours = wiring.neighbours_of(settings, Crowd()).services
    if settings.log:
        neighbours["log"] = log_of(settings)
    return await doctor.examine(sets, neighbours, tell)
