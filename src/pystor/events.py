"""What happened, as values. Whoever wants to know is an `Observer`; each chooses its own names for it.

What every request tells is a `NamedTuple`: as immutable as the others, and made in a quarter of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from pystor.digest import Digest
from pystor.errors import StorageError, StorError

Method: TypeAlias = Literal["get", "post"]
"""What is wanted of a blob: `get` is GET or HEAD, `post` is POST or PUT."""


class RequestBegan(NamedTuple):
    """A blob is asked for or sent; `digest` is None when its name is malformed, or is to be computed."""

    method: Method
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class UploadEnded:
    """An upload, which began as a request of `post`, is stored, refused or cut."""


class RequestEnded(NamedTuple):
    """A request was answered in full, or cut. Times are in seconds, `received` and `sent` are bytes of the bodies."""

    method: str
    path: str
    status: int
    seconds: float
    received: int
    sent: int
    client: str
    digest: Digest | None = None
    storage: str | None = None
    tier: str | None = None


@dataclass(frozen=True, slots=True)
class MalformedName:
    """A request named a blob by what is no SHA-256."""

    method: Method


class HintAsked(NamedTuple):
    """The location cache answered, after `seconds`."""

    hit: bool
    seconds: float


class LookedUp(NamedTuple):
    """The storages were looked through: `attempts` of them were asked, in `seconds`."""

    attempts: int
    seconds: float


class BlobServed(NamedTuple):
    """Bytes of a blob were sent, from a storage of a tier; none if `head`: only the headers were asked for."""

    digest: Digest
    storage: str
    tier: str
    size: int
    seconds: float
    head: bool = False


class AnsweredAtOnce(NamedTuple):
    """A request for a blob was answered without waiting: in one event, what else several tell, with the same units.

    `storage` and `tier` are None when nobody has the blob, `hinted` when the shared location cache was not needed. Who
    does not listen to this one is told its `parts`.
    """

    method: str
    path: str
    status: int
    digest: Digest
    hinted: bool | None
    attempts: int
    sent: int
    seconds: float
    client: str
    storage: str | None = None
    tier: str | None = None

    def parts(self) -> tuple[Event, ...]:
        """Tell the same as on the long way."""
        digest, storage, tier, seconds = self.digest, self.storage, self.tier, self.seconds
        asked = () if self.hinted is None else (HintAsked(self.hinted, 0.0),)
        began = RequestBegan("get", digest), *asked, LookedUp(self.attempts, seconds)
        ended = RequestEnded(
            self.method, self.path, self.status, seconds, 0, self.sent, self.client, digest, storage, tier
        )
        if storage is None or tier is None:
            return *began, BlobMissing(digest), ended._replace(digest=None)
        if self.status in (200, 206):
            return *began, ended, BlobServed(digest, storage, tier, self.sent, seconds, self.method == "HEAD")
        return *began, ended

    @classmethod
    def kinds(cls) -> tuple[type[Event], ...]:
        """The kinds of the parts."""
        return RequestBegan, HintAsked, LookedUp, BlobMissing, RequestEnded, BlobServed


@dataclass(frozen=True, slots=True)
class ArchiveMissed:
    """The archive has no such blob."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class BlobMissing:
    """No tier has such a blob."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A request failed in a way that nobody foresaw."""

    method: Method


class BlobStored(NamedTuple):
    """A blob of `size` bytes is on stable storage in every replica, under `paths`."""

    digest: Digest
    paths: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True)
class BlobDuplicate:
    """A blob that was sent is stored already."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class UploadRefused:
    """An upload was not stored."""

    reason: Literal["bad_sha", "no_space", "unknown"]


@dataclass(frozen=True, slots=True)
class HealthChecked:
    """Somebody asked how the storages are, and all are there."""


@dataclass(frozen=True, slots=True)
class ReplicaBad:
    """A replica is not the blob that it is named after."""

    digest: Digest
    storage: str


@dataclass(frozen=True, slots=True)
class ReplicaRepaired:
    """A replica that was missing or bad is good again; what was bad is in quarantine."""

    digest: Digest
    storage: str
    quarantined: bool


@dataclass(frozen=True, slots=True)
class PromotionFailed:
    """A blob that was read from the archive could not be stored in the pool."""

    digest: Digest
    error: StorError


@dataclass(frozen=True, slots=True)
class StorageFailed:
    """A storage did not do what was asked of it, about a blob if that is known."""

    error: StorageError
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class LeftoversSwept:
    """Temporaries of dead processes were removed."""

    storage: str
    count: int


@dataclass(frozen=True, slots=True)
class NeighbourFailed:
    """A service beside Stor did not do what was asked of it; no request is the worse for it."""

    neighbour: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobDone:
    """Something that was put off is done: what a queue's name says, about a blob, of which `size` bytes were copied."""

    queue: str
    digest: Digest
    size: int


Event: TypeAlias = (
    RequestBegan
    | UploadEnded
    | RequestEnded
    | MalformedName
    | HintAsked
    | LookedUp
    | BlobServed
    | AnsweredAtOnce
    | ArchiveMissed
    | BlobMissing
    | RequestFailed
    | BlobStored
    | BlobDuplicate
    | UploadRefused
    | HealthChecked
    | ReplicaBad
    | ReplicaRepaired
    | PromotionFailed
    | StorageFailed
    | LeftoversSwept
    | NeighbourFailed
    | JobDone
)

Observer: TypeAlias = Callable[[Event], None]
"""Called in the event loop; must not wait and must not raise."""


@runtime_checkable
class Choosy(Protocol):
    """An observer that says beforehand what it listens to: what nobody listens to costs nothing."""

    def listener(self, kind: type[Event]) -> Callable[[Any], None] | None:
        """Give what is to be called with events of a kind; None if nothing is. The answer stays the same."""
        ...


def nobody(event: Event) -> None:
    """Let what happened be nobody's business."""
