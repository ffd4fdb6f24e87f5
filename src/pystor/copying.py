"""Copying a blob into a pool that should have it: repair, promotion and mirroring are all this."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Final

from pystor.blob import Replica
from pystor.digest import Digest
from pystor.errors import NotFound, Unavailable
from pystor.ingest import Body, already_stored, store
from pystor.pool import Pool
from pystor.reading import Reading
from pystor.replicas import ReplicaState, Survey
from pystor.tiers import Tiers

_SILENT: Final = "A storage does not answer; it is tried again when it does"


async def copy(tiers: Tiers, into: Pool, digest: Digest) -> int:
    """Give a pool a blob, or those of its replicas that are missing or bad, from wherever it is good.

    Returns how many bytes were copied: none if all is well, or if there is no such blob anywhere. Raises `StorError`
    when it cannot be done now: `Unavailable` also when it was done but for a storage of the same set, which does not
    answer.
    """
    with suppress(NotFound):
        return await copy_known(tiers, into, digest)
    return 0


async def copy_known(tiers: Tiers, into: Pool, digest: Digest) -> int:
    """Do as `copy` does; raises `NotFound` if there is no such blob anywhere."""
    looks = await into.survey(digest)
    if already_stored(digest, looks):
        return 0
    silent = [look for look in looks if ReplicaState.UNKNOWN in look.states.values()]
    # Those that answer do not wait for one that may never come back.
    surveys = [look.answered for look in looks if look not in silent or look.answered.wanting]
    # A set that can be mended needs no other, unless that fails. Without one, no new place is chosen as long as some
    # storage may have the blob.
    if silent and not any(survey.wanting for survey in surveys):
        raise Unavailable(_SILENT)
    with into.repairs.under_way(digest):
        tiers = tiers.quietly()
        replica = await _find_good(tiers, digest, looks)
        size, modified = replica.size, replica.fingerprint[3]
        surveys = [replace(each, modified=modified) if each.modified is None else each for each in surveys]
        async with aclosing(Reading(tiers, digest, replica, 0, size)) as pieces:
            stored = await store(into, Body(aiter(pieces), size, size), digest, surveys)
    if stored.unmended is not None:
        raise stored.unmended
    if any(look.answered.wanting for look in silent):
        raise Unavailable(_SILENT, size)
    return size


async def _find_good(tiers: Tiers, digest: Digest, looks: Sequence[Survey]) -> Replica:
    """Open a replica that was not found bad by the looks; raises as `Tiers.find` does, and says if there is none."""
    bad = frozenset(member.storage.root for look in looks for member in look.bad)
    try:
        return await tiers.find(digest, without=bad)
    except Unavailable:
        states = {state for look in looks for state in look.states.values()}
        if not states <= {ReplicaState.MISSING, ReplicaState.BAD}:
            raise
        raise Unavailable("No storage has a good replica: upload the blob, or bring it back from a backup") from None
