"""The settings: one table that says of every key how it is parsed, its default and what it means."""

# ruff: noqa: RUF009  `key` makes a field of the dataclass

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from pystor.config import neighbours
from pystor.config.neighbours import Amqp, Credentials, LogOutput, S3Credentials, Server, Statsite
from pystor.config.storages import Pairs, Place, directory, pairs
from pystor.config.table import key, record
from pystor.config.values import (
    choice,
    flag,
    hostname,
    ignored,
    listing,
    number,
    part,
    regex,
    seconds,
    size,
    whole,
)

Durability: TypeAlias = Literal["fsync", "none"]
Style: TypeAlias = Literal["text", "json"]
Order: TypeAlias = Literal["pool-first", "archive-first"]

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

_WORKERS: Final = min(len(os.sched_getaffinity(0)), 8)

_servers = listing(neighbours.memcached, "a list of servers")
_outputs = listing(neighbours.log_output, "a list of outputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be configured, as plain values; sizes are bytes, times are seconds. It can be pickled."""

    storage_pairs: Pairs = key(pairs, (), "The pairs: lists of storages that all keep the same blobs", required=True)
    writable_pairs_regex: str | None = key(regex, None, "Searched in a storage's path; no match: read-only")
    basic_auth: Credentials | None = key(neighbours.credentials, None, "Who may write; without it nobody may")
    durability: Durability = key(choice("fsync", "none"), "fsync", "What an upload waits for before it is acknowledged")
    require_mount: bool | None = key(flag, None, "Whether a storage has to be a mounted disk of its own")
    local_storages_regex: str | None = key(regex, None, "Searched in a storage's path; match: a disk of this machine")
    reserve_bytes: int | None = key(size(), None, "Bytes that uploads leave free on every storage")
    max_blob_size: int = key(size(1), TIB, "The largest blob that is taken, in bytes")
    verify_reads: bool = key(flag, True, "Whether blobs are compared with their digest when they are read")
    verify_first_bytes: int = key(size(0, 64 * MIB), MIB, "Blobs up to this size are verified before any byte is sent")

    repair_files_per_second: float = key(
        number(0.001, 1e9, " a second"), 100.0, "The most blobs that repair copies in a second"
    )
    repair_bytes_per_second: int = key(
        size(1), 100_000_000, "The most bytes that repair copies, or verifying in the background reads, in a second"
    )

    host: str = key(hostname, "127.0.0.1", "The address to listen at")
    port: int = key(whole(0, 65535), 8080, "The port to listen at; 0 takes a free one")
    workers: int = key(whole(1, 1024), _WORKERS, "How many processes serve")
    upload_idle_timeout: float = key(seconds(), 30.0, "Seconds an upload may stand still before it is given up")
    download_idle_timeout: float = key(seconds(), 300.0, "Seconds a client may take nothing of a blob before it is cut")
    header_timeout: float = key(seconds(), 10.0, "Seconds a client may take for the headers of a request")
    keep_alive_timeout: float = key(seconds(), 75.0, "Seconds a connection may idle between two requests")
    shutdown_timeout: float = key(seconds(0), 10.0, "Seconds that running requests get when the server is stopped")
    max_header_bytes: int = key(size(KIB, 16 * MIB), 64 * KIB, "The most bytes of headers that are read")
    drain_bytes: int = key(size(), GIB, "Bytes that are read and dropped after an early answer, so that it arrives")
    drain_timeout: float = key(seconds(0), 60.0, "Seconds for which bytes are read and dropped after an early answer")

    statsite: Statsite | None = key(record(Statsite), None, "Where metrics are sent")
    s3_enabled: bool = key(flag, False, "Whether the S3 archive is asked for blobs")
    s3_credentials: S3Credentials | None = key(record(S3Credentials), None, "How the S3 archive is reached")
    s3_bucket: str = key(neighbours.bucket, "samples", "The bucket of the archive")
    s3_prefix: str = key(neighbours.prefix, "", "What stands before the keys of the archive")
    s3_region: str = key(neighbours.region, "us-east-1", "The region of the archive")
    s3_virtual_hosted: bool = key(flag, False, "Whether the bucket stands in the host's name instead of the path")
    s3_timeout: float = key(seconds(), 2.0, "Seconds in which the archive answers, or sends more of an answer")
    s3_retries: int = key(whole(0, 10), 2, "How often a request is repeated that the archive could not answer")
    s3_order: Order = key(choice("pool-first", "archive-first"), "pool-first", "What is asked for a blob first")
    s3_promote: bool = key(flag, False, "Whether a blob that was read from the archive is stored in the pool")
    s3_redirect: bool = key(flag, False, "Whether clients fetch blobs of the archive from there themselves")
    s3_mirror: bool = key(flag, False, "Whether each blob that is stored is copied to the archive, later")
    s3_spool: Path | None = key(directory, None, "Where uploads to buckets are collected, on a disk with room for them")
    memcached_servers: tuple[Server, ...] = key(_servers, (), "The servers of the shared location cache")
    rabbitmq_uri: Amqp | None = key(neighbours.amqp, None, "The broker that is told what was asked for")
    rabbitmq_stored: bool = key(flag, False, "Whether the broker is told what was stored, too")
    log: tuple[LogOutput, ...] = key(_outputs, (), "Where messages go")
    log_format: Style = key(choice("text", "json"), "text", "How messages look: lines for people, or JSON")
    log_level: str = key(choice(*LOG_LEVELS), "info", "The least level that is logged where no min_level is given")
    access_log: float = key(part, 0.0, "Part of the requests that is logged, 0 to 1; false is 0, true is 1")
    cleanup_tempdir_period: float = key(seconds(1), 1800.0, "Seconds between two sweeps of abandoned temporary files")
    secret: None = key(ignored, None, "Accepted because older files have it; not used and not kept")

    def lets_write(self, place: Place) -> bool:
        """Tell whether a storage may be written to."""
        pattern = self.writable_pairs_regex
        return pattern is None or re.search(pattern, str(place)) is not None
