"""The requests to one bucket, through obstore; whatever goes wrong is a `StorageError`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from pystor.adapters.s3.failures import is_missing, status_of, translate
from pystor.address import BucketAddress
from pystor.blob import Timeouts
from pystor.errors import StorageError, StorageFull

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Credential

PIECE: Final = 64 << 10
"""Bytes of an object that are read in one go."""

ONE_REQUEST: Final = 5 << 20
"""Bytes up to which an object is sent in one request, and from memory. Larger ones go in parts of at least this."""

_PARTS_AT_ONCE: Final = 2
_MOST_PARTS: Final = 9_000  # S3 takes 10,000
_MEBIBYTE: Final = 1 << 20
_LONGEST_SIGNATURE: Final = 7 * 86400
_FOREVER: Final = timedelta(days=365)
_FULL_FOR: Final = 10.0  # seconds
_FAILURES: Final = (BaseError, OSError, ValueError)  # all that obstore raises on purpose
_PANIC: Final = "PanicException"  # what it raises else, which is no `Exception`, and in no module


@dataclass(frozen=True, slots=True)
class Keys:
    """What requests are signed with."""

    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"Keys({self.access_key})"

    def __call__(self) -> S3Credential:
        """Give them to obstore, which would mix those of its options with a session token of the environment."""
        return {"access_key_id": self.access_key, "secret_access_key": self.secret_key, "expires_at": None}


@dataclass(frozen=True, slots=True)
class RequestPolicy:
    """Seconds, and how often a request is repeated that a server could not answer."""

    connect: float = 1.0
    read: float = 2.0
    """For the beginning of an answer, and for each next piece of it."""
    write: float = 60.0
    """For one request that sends up to 5 MiB, or asks for a copy."""
    retries: int = 2

    @property
    def timeouts(self) -> Timeouts:
        """How long one who asks waits for all of that: for each time, and for a first piece of what is answered.

        That pieces come in time is seen to for each of them; all together take as long as they do.
        """
        return Timeouts(self.connect + self.read * (self.retries + 2), PIECE / self.read)


class Client:
    """One bucket. Keys are full ones."""

    def __init__(self, name: str, reading: ObjectStore, writing: ObjectStore, secrets: tuple[str, ...] = ()) -> None:
        """`reading` gives up soon, and never on a body that arrives slowly; `writing` gives a request its time."""
        self.name: Final = name
        self._reading: Final = reading
        self._writing: Final = writing
        self._secrets: Final = tuple(filter(None, secrets))
        self._creates = True
        self._answered = -math.inf
        """When that was asked which was asked last of all that has an answer, on the monotonic clock."""
        self._full_until = -math.inf

    @classmethod
    def connect(cls, name: str, address: BucketAddress, keys: Keys | None, policy: RequestPolicy) -> Client:
        """Describe the way to a bucket; nothing is sent yet. Without keys, those of the environment are taken."""
        # A stream may be read as slowly as a client of ours reads. A request that timed out has had its time.
        soon: ClientConfig = {"timeout": _FOREVER, "read_timeout": timedelta(seconds=policy.read)}
        late: ClientConfig = {"timeout": timedelta(seconds=policy.write)}
        reading = _store(address, keys, policy, soon, policy.read * 0.9)
        writing = _store(address, keys, policy, late, policy.write * 0.9)
        return cls(name, reading, writing, (keys.secret_key,) if keys else ())

    def get(self, key: str, part: tuple[int, int] | None = None) -> GetResult | None:
        """Begin to read an object, or a part of it: from an offset up to another. None only if there is no object."""
        with self.translated(f"get {key}"):
            try:
                return obstore.get(self._reading, key, options={"range": part} if part else None)
            except FileNotFoundError as error:
                if not is_missing(error):
                    raise
                return None

    def look_at(self, key: str) -> ObjectMeta | None:
        """Tell what an object is, without its bytes; None if there is none."""
        with self.translated(f"head {key}"):
            try:
                return obstore.head(self._reading, key)
            except FileNotFoundError:
                return None

    def create(self, key: str, data: bytes) -> bool:
        """Store an object unless there is one of that name; False if there is. Servers that cannot do so overwrite."""
        if self._creates:
            with self.translated(f"put {key}"):
                try:
                    obstore.put(self._writing, key, data, mode="create", use_multipart=False)
                except AlreadyExistsError:
                    return False
                except _FAILURES as error:
                    if status_of(error) != 501:
                        raise
                    self._creates = False
                else:
                    return True
        self.put(key, data)
        return True

    def put(self, key: str, data: bytes) -> None:
        """Store a small object, whatever is there."""
        with self.translated(f"put {key}"):
            obstore.put(self._writing, key, data, use_multipart=False)

    def upload(self, key: str, pieces: Iterator[bytes], size: int) -> None:
        """Store a large object in parts, whatever is there; it appears when the last one has come.

        When `pieces` raises, what was sent is taken back.
        """
        part = max(ONE_REQUEST, math.ceil(size / _MOST_PARTS / _MEBIBYTE) * _MEBIBYTE)
        with self.translated(f"put {key}"):
            obstore.put(self._writing, key, pieces, use_multipart=True, chunk_size=part, max_concurrency=_PARTS_AT_ONCE)

    def copy(self, key: str, to: str) -> None:
        """Copy an object inside the bucket; nothing to copy is no failure."""
        with self.translated(f"copy {key}"):
            try:
                obstore.copy(self._writing, key, to)
            except FileNotFoundError as error:
                if not is_missing(error):
                    raise

    def names(self, directory: str, most: int) -> list[str]:
        """Tell the last segments of the keys below one, at most so many."""
        with self.translated(f"list {directory}"):
            page = next(iter(obstore.list(self._reading, directory, chunk_size=most)), [])
            return [meta["path"].rpartition("/")[2] for meta in page[:most]]

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with self.translated(f"delete {key}"), suppress(FileNotFoundError):
            obstore.delete(self._writing, key)

    def sign(self, key: str, seconds: int) -> str:
        """Make a URL with which anybody may get an object for so many seconds, at most a week."""
        if not isinstance(self._reading, S3Store):
            raise StorageError(self.name, f"sign {key}", "this store cannot sign")
        with self.translated(f"sign {key}"):
            return obstore.sign(self._reading, "GET", key, timedelta(seconds=min(seconds, _LONGEST_SIGNATURE)))

    @contextmanager
    def translated(self, operation: str) -> Iterator[None]:
        """Raise what obstore raises as a `StorageError`, which is that of one request if others are answered."""
        began = time.monotonic()
        try:
            yield
        except _FAILURES as error:
            failure = translate(self.name, operation, error, self._secrets)
            failure.dead = failure.dead and not self.answers_since(began)
            if isinstance(failure, StorageFull):
                self._full_until = time.monotonic() + _FULL_FOR
            # Not `from error`: what it says may hold what must not be shown, and fills a page.
            raise failure from None
        except BaseException as error:
            if type(error).__name__ != _PANIC:
                raise
            reason = "the S3 library broke down over this request: correct the keys and the endpoint"
            raise StorageError(self.name, operation, reason, dead=True) from None
        self._answered = max(self._answered, began)

    @property
    def full(self) -> bool:
        """Whether the answer was a moment ago that there is no room."""
        return time.monotonic() < self._full_until

    def answers_since(self, began: float) -> bool:
        """Tell whether there was an answer to what was asked after `began`, on the monotonic clock."""
        return self._answered > began


def _store(
    address: BucketAddress, keys: Keys | None, policy: RequestPolicy, client: ClientConfig, retry_for: float
) -> S3Store:
    retry: RetryConfig = {
        "max_retries": policy.retries,
        "retry_timeout": timedelta(seconds=retry_for),
        "backoff": {
            "init_backoff": timedelta(milliseconds=50),
            "max_backoff": timedelta(milliseconds=500),
            "base": 2,
        },
    }
    endpoint = _endpoint(address)
    return S3Store(
        address.bucket,
        region=address.region,
        virtual_hosted_style_request=address.virtual_hosted,
        credential_provider=keys,
        client_options={
            **client,
            "allow_http": endpoint is not None and endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=policy.connect),
        },
        retry_config=retry,
        # Under this name the environment cannot override it.
        config=None if endpoint is None else {"aws_endpoint_url_s3": endpoint},
    )


def _endpoint(address: BucketAddress) -> str | None:
    if address.endpoint is None or not address.virtual_hosted:
        return address.endpoint
    scheme, _, host = address.endpoint.partition("://")
    return f"{scheme}://{address.bucket}.{host}"
