"""A blob on its way in: chunks are hashed once and written to all replicas, compared, made durable, published."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from pystor.blob import Replica
from pystor.bulkhead import Bulkhead
from pystor.digest import HASHED_AT_ONCE, Digest
from pystor.errors import DigestMismatch, IncompleteBody, NoSpace, StorageError, StorError, TooLarge, Unavailable
from pystor.events import ReplicaRepaired, StorageFailed
from pystor.pool import Pool
from pystor.replicas import ReplicaState, Survey
from pystor.small_uploads import AlreadyThere, SmallUpload, SmallUploads
from pystor.uploads import Upload, send

_T = TypeVar("_T")

BATCH: Final = 1 << 20
"""Bytes that are hashed and written at once; an upload holds about three times as much in memory."""


@dataclass(frozen=True, slots=True)
class Body:
    """What a client sends: its pieces, and its length in bytes if that was declared."""

    pieces: AsyncIterator[bytes]
    declared: int | None
    limit: int

    async def batches(self) -> AsyncIterator[bytes]:
        """Produce the body in batches of `BATCH` bytes or a little more; only the last is smaller, and may be empty.

        Raises `TooLarge` and `IncompleteBody`, and what the pieces raise.
        """
        received = batched = 0
        waiting: list[bytes] = []  # joined once: copying into memory that is new costs more than anything else here
        async for piece in self.pieces:
            received += len(piece)
            if received > self.limit:
                raise TooLarge(self.limit)
            waiting.append(piece)
            if received - batched >= BATCH:
                yield b"".join(waiting)
                waiting, batched = [], received
        if self.declared is not None and received != self.declared:
            raise IncompleteBody(f"The body has {received} bytes, {self.declared} were declared; nothing was stored")
        yield b"".join(waiting)


class Stored(NamedTuple):
    """Where a blob is now, and whether this made it so."""

    digest: Digest
    created: bool
    paths: tuple[str, ...]
    unmended: StorError | None = None
    """What kept another replica set than that which has it in full from being made whole."""


def already_stored(digest: Digest, surveys: Sequence[Survey]) -> Stored | None:
    """Tell where a blob is if some replica set has it in full, and none is to be made whole."""
    return None if any(survey.wanting for survey in surveys) else _in_full(digest, surveys)


def _in_full(digest: Digest, surveys: Sequence[Survey], unmended: StorError | None = None) -> Stored | None:
    if not any(survey.complete for survey in surveys):
        return None
    having = (member for survey in surveys for member in survey.having())
    return Stored(digest, created=False, paths=_paths(digest, having), unmended=unmended)


async def store(pool: Pool, body: Body, digest: Digest | None, surveys: Sequence[Survey] = ()) -> Stored:
    """Store a blob in every replica of a set, or make whole the sets that have it in part; durable when this returns.

    `digest` is what the body is said to be, None to compute it; `surveys` is what `Pool.survey` saw of it. Raises
    `StorError`, and then nothing is acknowledged and no temporary stays. What some set has in full is stored, whatever
    keeps the others from being made whole.
    """
    storing = _store(pool, body, digest, surveys)
    return await (storing if digest is None else _unless_in_full(storing, digest, surveys))


async def _unless_in_full(storing: Awaitable[Stored], digest: Digest, surveys: Sequence[Survey]) -> Stored:
    """Wait until a blob is stored; a failure is raised only if no set has the blob in full already."""
    try:
        return await storing
    except (DigestMismatch, StorageError, TooLarge) as error:
        stored = _in_full(digest, surveys, error)
        if stored is None:
            raise
        return stored


async def _store(pool: Pool, body: Body, digest: Digest | None, surveys: Sequence[Survey]) -> Stored:
    if body.declared is not None and body.declared > body.limit:
        raise TooLarge(body.limit)
    batches = body.batches()
    if body.declared is None:
        first = await anext(batches)
        if len(first) < BATCH:
            return await _store_whole(pool, first, digest, surveys)
        return await _store_stream(pool, 0, _chain(first, batches), digest, surveys)
    if body.declared <= BATCH:
        return await _store_whole(pool, b"".join([batch async for batch in batches if batch]), digest, surveys)
    # Room for a large blob is found before its first byte is asked for.
    return await _store_stream(pool, body.declared, batches, digest, surveys)


async def store_at_once(pool: Pool, content: bytes, digest: Digest) -> Stored | None:
    """Store a small blob that is here in full, and look in the same go whether it is stored already.

    None, and nothing is done: it is to be looked for first, since something is there, or it is not what it is said to
    be. Raises as `store` does.
    """
    if len(content) > HASHED_AT_ONCE or not pool.looks_while_staging or Digest.of(content) != digest:
        return None
    try:
        upload = await pool.stage(digest, len(content), content, unseen=digest)
    except AlreadyThere:
        return None
    except (NoSpace, Unavailable):
        # Whoever has no room for a blob may have the blob.
        if stored := already_stored(digest, await pool.survey(digest)):
            return stored
        raise
    async with upload:
        return await _publish(pool, upload, digest, (), ())


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for batch in rest:
        yield batch


async def _store_whole(pool: Pool, content: bytes, given: Digest | None, surveys: Sequence[Survey]) -> Stored:
    small = len(content) <= HASHED_AT_ONCE
    digest = Digest.of(content) if small else await _in_thread(Digest.of, content)
    if given is None:
        surveys = await pool.survey(digest)
        if stored := already_stored(digest, surveys):
            return stored
    elif digest != given:
        raise DigestMismatch(digest.hex, given.hex)
    return await _unless_in_full(_store_content(pool, content, digest, surveys), digest, surveys)


async def _store_content(
    pool: Pool, content: bytes, digest: Digest, surveys: Sequence[Survey], without: frozenset[Bulkhead] = frozenset()
) -> Stored:
    upload, gaps = await _begin(pool, surveys, digest, len(content), content, without)
    async with upload:
        try:
            return await _publish(pool, upload, digest, gaps, surveys)
        except StorageError as error:
            if not error.refused or any(survey.complete for survey in surveys):
                raise
            elsewhere = _store_content(pool, content, digest, surveys, without.union(upload.members))
            return await _or_fail(pool, elsewhere, digest, error)


async def _or_fail(pool: Pool, elsewhere: Awaitable[Stored], digest: Digest, failure: StorageError) -> Stored:
    """Store a blob elsewhere than where its name is refused; raises that `failure` if nobody else takes it.

    Whoever uploads it again would be sent to the same place, since the digest decides that.
    """
    try:
        stored = await elsewhere
    except (NoSpace, Unavailable):
        raise failure from None
    pool.observe(StorageFailed(failure, digest))
    return stored


async def _store_stream(
    pool: Pool,
    size: int,
    batches: AsyncIterator[bytes],
    given: Digest | None,
    surveys: Sequence[Survey],
    without: frozenset[Bulkhead] = frozenset(),
) -> Stored:
    upload, gaps = await _begin(pool, surveys, given, size, None, without)
    async with upload:
        digest = await _write_all(upload, batches)
        if given is None:
            surveys = await pool.survey(digest)
            if stored := already_stored(digest, surveys):
                return stored
            gaps = [survey for survey in surveys if survey.mended_by(upload.members)]
            if not gaps and (stored := await _mend(pool, digest, surveys)):
                return stored
        elif digest != given:
            raise DigestMismatch(digest.hex, given.hex)
        try:
            stored = await _unless_in_full(_sync_and_publish(pool, upload, digest, gaps, surveys), digest, surveys)
        except StorageError as error:
            sources = [*upload.named, *(member for survey in surveys for member in survey.having())]
            if not (error.refused and sources):
                raise
            elsewhere = _store_from(sources[0], pool, digest, surveys, without.union(upload.members))
            return await _or_fail(pool, elsewhere, digest, error)
        left = given is None and any(survey.wanting for survey in surveys if survey not in gaps)
        return await _mend_others(pool, stored) if left else stored


async def _sync_and_publish(
    pool: Pool, upload: Upload, digest: Digest, gaps: Sequence[Survey], surveys: Sequence[Survey]
) -> Stored:
    await upload.sync(_times(surveys))
    return await _publish(pool, upload, digest, gaps, surveys)


async def _mend(pool: Pool, digest: Digest, surveys: Sequence[Survey]) -> Stored | None:
    """Make a blob whole that turned out to be stored in part elsewhere, from what is good there.

    None if that fails, and no set has it in full.
    """
    sources = [member for survey in surveys if survey.mendable for member in survey.having()]
    if not sources:
        return None
    try:
        return await _store_from(sources[0], pool, digest, surveys)
    except (DigestMismatch, NoSpace, StorageError, Unavailable) as error:
        return _in_full(digest, surveys, error)  # whoever reads that replica finds out, too


async def _mend_others(pool: Pool, stored: Stored) -> Stored:
    """Make whole, from what was stored of a blob just now, the other sets that have it in part, or only bad replicas.

    What cannot be made whole is left.
    """
    surveys = await pool.survey(stored.digest)
    mended = already_stored(stored.digest, surveys) or await _mend(pool, stored.digest, surveys)
    return stored if mended is None or mended.unmended else mended


async def _store_from(
    source: Bulkhead, pool: Pool, digest: Digest, surveys: Sequence[Survey], without: frozenset[Bulkhead] = frozenset()
) -> Stored:
    """Store what a storage has of a blob."""
    replica = await source.open(digest)
    if replica is None:
        raise Unavailable("The file has gone from where it was; try again later")
    with replica:
        return await _store_stream(pool, replica.size, _batches(source, replica), digest, surveys, without)


async def _batches(member: Bulkhead, replica: Replica) -> AsyncIterator[bytes]:
    for offset in range(0, replica.size, BATCH):
        yield await member.read(replica, offset, min(BATCH, replica.size - offset))


async def _write_all(upload: Upload, batches: AsyncIterator[bytes]) -> Digest:
    """Hash each batch and write it to all replicas at once, while the next one is received."""
    hasher = hashlib.sha256()
    batch = await anext(batches)
    while batch:
        working = asyncio.gather(_in_thread(hasher.update, batch), upload.write(batch))
        try:
            batch = await anext(batches, b"")
        except BaseException:
            await asyncio.gather(working, return_exceptions=True)
            raise
        await working
    return Digest(hasher.hexdigest())


async def _in_thread(hashing: Callable[[bytes], _T], content: bytes) -> _T:
    """Hash in a thread what takes long; raises `Unavailable` if the system has none to give now."""
    try:
        return await asyncio.to_thread(hashing, content)
    except RuntimeError as error:
        raise Unavailable("The server has no thread to spare; nothing was stored, try again later") from error


async def _begin(
    pool: Pool,
    surveys: Sequence[Survey],
    digest: Digest | None,
    size: int,
    content: bytes | None,
    without: frozenset[Bulkhead],
) -> tuple[Upload, list[Survey]]:
    """Stage where the blob is wanting already, and tell which sets that mends; otherwise where placement says.

    That is in no set of storages in `without`.
    """
    gaps = [survey for survey in surveys if survey.mendable and without.isdisjoint(survey.states)]
    if gaps:
        try:
            members = [member for gap in gaps for member in gap.lacking()]
            if content is None:
                return await Upload.stage(members, size), gaps
            return await send(SmallUploads(members), SmallUpload(content, times=_times(surveys))), gaps
        except StorageError as error:
            if any(survey.complete for survey in surveys):
                raise  # it is stored: what could not be mended now is not worth another copy
            pool.observe(StorageFailed(error, digest))
    return await pool.stage(digest, size, content, times=_times(surveys), without=without), []


def _times(surveys: Sequence[Survey]) -> dict[Bulkhead, int]:
    """Tell of which time a replica is to be, on each storage: since when its set has the blob, or else any set."""
    known = [survey.modified for survey in surveys if survey.modified is not None]
    if not known:
        return {}
    first = min(known)
    return {
        member: first if survey.modified is None else survey.modified for survey in surveys for member in survey.states
    }


async def _publish(
    pool: Pool, upload: Upload, digest: Digest, gaps: Sequence[Survey], surveys: Sequence[Survey]
) -> Stored:
    # What is stored already was noted then: for a replica that is made anew, the archive would send the whole blob.
    new = pool.mirrored and not _times(surveys)
    if new:
        # Before there is a name: whoever finds the blob after a crash, and is told that it is stored, needs no note.
        await upload.note("mirror", digest)
    await upload.publish(digest, {member: bad for gap in gaps for member, bad in gap.bad.items()})
    if new:
        # Again: a note about nothing is dropped, by a bucket at once, and that may have been before there was a name.
        await upload.note("mirror", digest)
    for gap in gaps:
        _tell_repaired(pool, digest, gap)
    if not gaps:
        return Stored(digest, created=True, paths=_paths(digest, upload.members))
    having = [member for survey in surveys for member in (survey.states if survey in gaps else survey.having())]
    return Stored(digest, created=False, paths=_paths(digest, having))


def _paths(digest: Digest, members: Iterable[Bulkhead]) -> tuple[str, ...]:
    return tuple([member.storage.locate(digest) for member in members])


def _tell_repaired(pool: Pool, digest: Digest, gap: Survey) -> None:
    for member in gap.lacking():
        pool.observe(ReplicaRepaired(digest, member.storage.root, quarantined=gap.states[member] is ReplicaState.BAD))
