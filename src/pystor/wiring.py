"""Objects out of settings: how the storages, the tiers and the neighbours fit together."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from pystor import config
from pystor.adapters import logs
from pystor.address import BucketAddress
from pystor.blob import QueueName, Storage
from pystor.breaker import Switch
from pystor.bulkhead import Bulkhead
from pystor.commit import Committers
from pystor.config import Settings
from pystor.config.storages import Place
from pystor.copying import copy, copy_known
from pystor.directory import Directory
from pystor.events import Observer
from pystor.hints import Hints, NoSharedCache, SharedCache
from pystor.identity import Verdict
from pystor.jobs import Queue
from pystor.lengths import Lengths
from pystor.marker import Homes
from pystor.observers import Observers
from pystor.pool import Pool
from pystor.replicas import ReplicaSet
from pystor.tiers import Tier, Tiers
from pystor.verification import Verifier
from pystor.watch import Watch

if TYPE_CHECKING:
    from pystor.adapters.s3 import Bucket

_BUCKET_THREADS: Final = 32
"""Requests to a bucket that are under way at once, in one worker."""

_HTTPS: Final = "443"


class Neighbour(Protocol):
    """A service beside Stor, as a worker has it."""

    async def start(self) -> None:
        """Begin; one that is away is not waited for."""
        ...

    async def stop(self) -> None:
        """End, soon."""
        ...

    async def probe(self) -> str:
        """Talk to it for real, and tell what was tried; raises `NeighbourError`."""
        ...


@dataclass(slots=True)
class Neighbours:
    """The services that are configured, by their names, and who keeps the shared level of the location cache."""

    services: dict[str, Neighbour] = field(default_factory=dict)
    cache: SharedCache = field(default_factory=NoSharedCache)


def neighbours_of(settings: Settings, observers: Observers) -> Neighbours:
    """Make those that are configured; those that observe join the observers.

    What speaks to a neighbour is imported where there is one: a worker without neighbours stays small.
    """
    found = Neighbours()
    if settings.statsite is not None:
        _join_statsite(settings.statsite, found, observers)
    if settings.rabbitmq_uri is not None:
        _join_broker(settings.rabbitmq_uri, found, observers, publish_stored=settings.rabbitmq_stored)
    if settings.memcached_servers:
        _join_memcached(settings.memcached_servers, found, observers)
    return found


def _join_statsite(place: config.Statsite, found: Neighbours, observers: Observers) -> None:
    from pystor.adapters.statsite import Statsite

    statsite = Statsite(place.host, place.port, place.prefix, place.sample_rate, observe=observers)
    observers.join(statsite)
    found.services["statsite"] = statsite


def _join_broker(place: config.Amqp, found: Neighbours, observers: Observers, *, publish_stored: bool) -> None:
    from pystor.adapters.amqp import Amqp

    broker = Amqp(
        place.host,
        place.port,
        observe=observers,
        user=place.user,
        password=place.password,
        vhost=place.vhost,
        tls=place.tls,
        exchange=place.exchange,
        routing_key=place.routing_key,
        heartbeat=place.heartbeat,
        publish_stored=publish_stored,
    )
    observers.join(broker)
    found.services["rabbitmq"] = broker


def _join_memcached(servers: Sequence[config.Server], found: Neighbours, observers: Observers) -> None:
    from pystor.adapters.memcached import Memcached

    memcached = Memcached([(server.host, server.port) for server in servers], observe=observers)
    found.services["memcached"] = found.cache = memcached


def pool_of(
    settings: Settings,
    observe: Observer,
    verdicts: Iterable[Verdict],
    switch: Callable[[int], Switch | None] = lambda _: None,
    cache: SharedCache | None = None,
) -> Pool:
    """Put the replica sets together; `switch` gives the breaker's switch of each storage, counted from 0.

    `verdicts` are those of a census: a storage takes disks only of the set that it was found to be of.
    """
    index = itertools.count()
    committers, watch, homes = Committers(), _watch(), Homes()
    replica_sets = {verdict.seen.root: verdict.replica_set for verdict in verdicts}

    def member(place: Place) -> Bulkhead:
        storage = storage_of(settings, place, watch, homes, replica_sets.get(str(place)))
        return _bulkhead(storage, switch(next(index)), committers)

    sets = [ReplicaSet([member(place) for place in pair]) for pair in settings.storage_pairs]
    return _pool(settings, sets, cache or NoSharedCache(), observe, mirrored=settings.s3_mirror, watch=watch)


def _watch() -> Watch | None:
    """Make what tells of moved storages; None where the kernel has none left: each miss costs more then."""
    try:
        return Watch()
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Archive:
    """The archive: a bucket, and a pool of one set of this one storage."""

    bucket: Bucket
    pool: Pool


def archive_of(settings: Settings, observe: Observer) -> Archive | None:
    """Make the archive; None when there is none."""
    if not settings.s3_enabled:
        return None
    keys = settings.s3_credentials
    endpoint = _endpoint(keys.host) if keys is not None and keys.host else None
    virtual = settings.s3_virtual_hosted or endpoint is None
    address = BucketAddress(settings.s3_bucket, settings.s3_prefix.strip("/"), endpoint, settings.s3_region, virtual)
    bucket = _bucket(settings, address, name=f"{address.url} (archive)", writable=settings.s3_mirror)
    sets = [ReplicaSet([_bulkhead(bucket)])]
    return Archive(bucket, _pool(settings, sets, NoSharedCache(), observe, mirrored=False))


def _pool(
    settings: Settings,
    sets: Sequence[ReplicaSet],
    cache: SharedCache,
    observe: Observer,
    *,
    mirrored: bool,
    watch: Watch | None = None,
) -> Pool:
    return Pool(
        sets,
        verifier=Verifier(enabled=settings.verify_reads),
        verify_first=settings.verify_first_bytes,
        hints=Hints(cache),
        sweep_period=settings.cleanup_tempdir_period,
        verify_bytes_per_second=settings.repair_bytes_per_second,
        mirrored=mirrored,
        watch=watch,
        observe=observe,
    )


def tiers_of(settings: Settings, pool: Pool, archive: Archive | None, observe: Observer) -> Tiers:
    """Put the tiers in the order in which they are asked."""
    tiers = [Tier("pool", pool)]
    if archive is not None:
        tiers.insert(0 if settings.s3_order == "archive-first" else 1, Tier("archive", archive.pool))
    return Tiers(tiers, observe)


def queue_of(
    settings: Settings, name: QueueName, tiers: Tiers, pool: Pool, into: Pool, shared: str | None = None
) -> Queue:
    """Make a queue of the pool's: what is noted there is copied into a pool, from wherever it is good.

    `shared` is a file in memory where all workers tell how much waits.
    """
    return Queue(
        name,
        pool,
        partial(copy_known if name == "mirror" else copy, tiers, into),
        observe=pool.observe,
        files_per_second=settings.repair_files_per_second,
        bytes_per_second=settings.repair_bytes_per_second,
        lengths=Lengths(shared, len(pool.sets)),
    )


def directories_of(settings: Settings) -> list[list[Directory]]:
    """Make the storages that are directories, by their replica sets."""
    return [
        [directory_of(settings, place) for place in pair if isinstance(place, Path)] for pair in settings.storage_pairs
    ]


def storage_of(
    settings: Settings,
    place: Place,
    watch: Watch | None = None,
    homes: Homes | None = None,
    replica_set: str | None = None,
) -> Storage:
    """Make the storage that is at a place."""
    if isinstance(place, Path):
        return directory_of(settings, place, watch=watch, homes=homes, replica_set=replica_set)
    return _bucket(settings, place, name=place.url, writable=settings.lets_write(place))


def directory_of(
    settings: Settings,
    root: Path,
    *,
    watch: Watch | None = None,
    homes: Homes | None = None,
    replica_set: str | None = None,
) -> Directory:
    """Make the storage that is a directory."""
    pattern = settings.local_storages_regex
    return Directory(
        str(root),
        writable=settings.lets_write(root),
        durable=settings.durability == "fsync",
        reserve=settings.reserve_bytes,
        require_mount=settings.require_mount,
        replica_set=replica_set,
        local=None if pattern is None else re.search(pattern, str(root)) is not None,
        watch=watch,
        homes=homes,
    )


def _bucket(settings: Settings, address: BucketAddress, *, name: str, writable: bool) -> Bucket:
    from pystor.adapters.s3 import Bucket, Keys, RequestPolicy

    given = settings.s3_credentials
    keys = Keys(given.access_key, given.secret_key) if given and given.access_key and given.secret_key else None
    policy = RequestPolicy(read=settings.s3_timeout, retries=settings.s3_retries)
    spool = None if settings.s3_spool is None else str(settings.s3_spool)
    return Bucket.connect(name, address, keys, policy, spool=spool, writable=writable)


def _bulkhead(storage: Storage, switch: Switch | None = None, committers: Committers | None = None) -> Bulkhead:
    threads = 8 if isinstance(storage, Directory) else _BUCKET_THREADS
    return Bulkhead(storage, threads=threads, switch=switch, committers=committers)


def _endpoint(host: str) -> str:
    """Make a URL of a host as the original has it: without a scheme, a port other than 443 speaks plain HTTP."""
    if host.startswith(("http://", "https://")):
        return host.rstrip("/")
    port = host.rpartition(":")[2]
    return f"{'http' if port.isdigit() and port != _HTTPS else 'https'}://{host}"


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
