"""What is done about the storages beside serving them: adopted before the start, repaired, replaced, examined."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pystor import census, doctor, wiring
from pystor.adapters import logs
from pystor.bulkhead import WRITE_TIMEOUT
from pystor.config import Settings
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import ConfigError, StorageError, advised
from pystor.events import Event, StorageFailed
from pystor.fan_out import ask_all
from pystor.identity import Verdict, refuse_adoption
from pystor.jobs import DONE
from pystor.marker import HOME, new_id
from pystor.missing import missing_in
from pystor.observers import Observers
from pystor.replicas import ReplicaSet

_IF_MISSING: Final = f"if its disk is missing, stop the server, remove {HOME} there, and mount the disk"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of the storages before the start."""

    adopted: list[str]
    """The roots of those that are new."""
    unusable: list[str]
    """A line for each that is not used now; a server takes it in when it is as it should be."""
    doubtful: list[str]
    """A line for each of the new ones that may be a mount point whose disk is missing."""
    of_others: list[str]
    """A line for one of those that root, who runs the server, should leave to their user."""


def prepare(settings: Settings) -> Prepared:
    """Adopt the storages that are new, before any worker starts."""
    sets = wiring.directories_of(settings)
    verdicts = census.take(sets)
    new: dict[Directory, str] = {}
    for group in sets:
        new |= dict.fromkeys((storage for storage in group if verdicts[storage].new), new_id())
    failures = dict.fromkeys(new, "no answer") | ask_all(lambda one: _adopt(one, new[one]), new, WRITE_TIMEOUT)
    refusals = {storage: failures.get(storage, verdict.refusal) for storage, verdict in verdicts.items()}
    adopted = [storage for storage in new if refusals[storage] is None]
    return Prepared(
        [storage.root for storage in adopted],
        [f"{storage.root}: {advised(refusal)}" for storage, refusal in refusals.items() if refusal is not None],
        [f"{storage.root}: {doubt}: {_IF_MISSING}" for storage in adopted if (doubt := verdicts[storage].doubt)],
        [f"{line}: let {name} run the server" for name, line in _owners(_written_to(verdicts))][:1],
    )


def _adopt(storage: Directory, replica_set: str) -> str | None:
    """Adopt a storage, or tell why that failed."""
    try:
        storage.adopt(replica_set)
    except StorageError as error:
        return error.reason
    return None


def _refuse_root(verdicts: Iterable[Verdict]) -> None:
    """Let root make nothing on storages of somebody else; raises `ConfigError`."""
    for name, line in _owners(verdicts):
        raise ConfigError(
            [f"{line}: put `sudo -u {shlex.quote(name)}` before the command, and name the file by --config"]
        )


def _written_to(verdicts: Mapping[Directory, Verdict]) -> list[Verdict]:
    return [verdict for storage, verdict in verdicts.items() if storage.writable]


def _owners(verdicts: Iterable[Verdict]) -> Iterator[tuple[str, str]]:
    """Give, if we are root, whose the storages are that are not ours, and a line for each."""
    for seen in (verdict.seen for verdict in verdicts):
        if seen.owner and os.geteuid() == 0:
            name = _user(seen.owner)
            yield name, f"{seen.root} belongs to {name}, who could not write to what root makes there"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


@dataclass(slots=True)
class Repaired:
    """What became of a repair."""

    failed: set[Digest] = field(default_factory=set)
    """Blobs that could not be repaired."""
    away: dict[str, str] = field(default_factory=dict)
    """Storages that did not do what they should, by their roots, with a line for each."""
    unread: list[str] = field(default_factory=list)
    """A line for each directory that cannot be read on a storage that is well otherwise."""
    unfilled: list[str] = field(default_factory=list)
    """A line for each replica set that lacks something and takes no writes."""

    def __call__(self, event: Event) -> None:
        """Take note of a storage that fails as a whole, and log what fails for one blob only."""
        if isinstance(event, StorageFailed):
            if event.digest is None:
                self.away.setdefault(event.error.storage, event.error.advise())
            if event.error.storage in self.away:
                return
        logs.log(event)

    def skip(self, error: StorageError) -> None:
        """Take note of a directory that cannot be read."""
        self.unread.append(error.describe())

    def leave(self, replica_set: ReplicaSet) -> None:
        """Take note of a set that lacks something and takes no writes."""
        advice = _how_to_fill([member.storage.root for member in replica_set.members])
        self.unfilled.append(f"{advice} for what is missing there to be copied")

    def note(self, digest: Digest, outcome: str) -> str:
        """Take note of what became of a blob; returns a line about it."""
        (self.failed.discard if outcome == DONE else self.failed.add)(digest)
        return f"{digest.hex}  {outcome}"


async def repair(
    settings: Settings, tell: Callable[[str], None], wait: Callable[[str], None], *, everything: bool = False
) -> Repaired:
    """Work the repair queue off, now; `tell` gets a line for each blob. Raises `ConfigError`.

    `wait` gets a line for each replica set that a server is at work on: it is waited for. `everything`: look first
    through all storages for blobs that are missing on another one of their set.
    """
    verdicts = census.take(wiring.directories_of(settings))
    _refuse_root(_written_to(verdicts))
    repaired = Repaired()
    pool = wiring.pool_of(settings, repaired, verdicts.values())
    archive = wiring.archive_of(settings, logs.log)
    tiers = wiring.tiers_of(settings, pool, archive, logs.log)
    repairs = wiring.queue_of(settings, "repair", tiers, pool, pool)

    def told(digest: Digest, outcome: str) -> None:
        tell(repaired.note(digest, outcome))

    def waited(replica_set: ReplicaSet) -> None:
        roots = " and ".join(member.storage.root for member in replica_set.members)
        wait(f"somebody else, as a server, is repairing {roots} now: waiting until that is done")

    await pool.start()
    try:
        if everything:
            async for digest in missing_in(pool, repaired.skip, repaired.leave):
                await repairs.do(digest, told)
        await repairs.work_off(told, waited)
        return repaired
    finally:
        await pool.stop()


def _how_to_fill(roots: Iterable[str]) -> str:
    return f"{' and '.join(roots)} take no writes: let writable_pairs_regex match them"


def adopt(settings: Settings, root: Path) -> str:
    """Make an empty disk the storage that is configured at its place; returns a line about what follows.

    Raises `StorageError`, and `ConfigError`.
    """
    sets = wiring.directories_of(settings)
    storage = next((storage for group in sets for storage in group if storage.root == str(root)), None)
    if storage is None:
        raise ConfigError([f"{root}: no storage of the configuration; give one of storage_pairs"])
    verdicts = census.take(sets)
    others = [verdicts[other] for group in sets if storage in group for other in group if other is not storage]
    peers = [verdict.seen for verdict in others]
    strangers = [verdicts[other].seen for group in sets if storage not in group for other in group]
    written_to = [verdict for verdict in _written_to(verdicts) if verdict is not verdicts[storage]]
    _refuse_root([*others, *written_to])  # the disk is written to now, though its set may take no writes
    refusal = refuse_adoption(verdicts[storage].seen, peers, strangers)
    if refusal is not None:
        raise ConfigError([f"{root}: {advised(refusal)}"])
    replica_set = verdicts[storage].replica_set
    storage.adopt(replica_set or new_id())
    if replica_set is None:
        return "no other of its set has a marker: when all of them are adopted, send SIGHUP to a server that runs"
    (pair,) = (pair for pair in settings.storage_pairs if root in pair)
    if all(map(settings.lets_write, pair)):
        return "the server finds it by itself, and `stor repair --all` fills it"
    return f"{_how_to_fill(map(str, pair))} for `stor repair --all` to fill it"


async def examine(settings: Settings, tell: Callable[[str], None]) -> int:
    """Ask each storage and each neighbour; `tell` gets a line for each. Returns how many are not well.

    Raises `ConfigError`: root would make what is missing, and be refused nothing that Stor's user is.
    """
    _refuse_root(_written_to(census.take(wiring.directories_of(settings))))
    archive = wiring.archive_of(settings, logs.log)
    sets = [[wiring.storage_of(settings, place) for place in pair] for pair in settings.storage_pairs]
    if archive is not None:
        sets.append([archive.bucket])
    neighbours = wiring.neighbours_of(settings, Observers()).services
    if settings.log:
        neighbours["log"] = wiring.log_of(settings)
    return await doctor.examine(sets, neighbours, tell)
