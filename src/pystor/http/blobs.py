"""The resource `/SHA`, and `/` as far as it takes uploads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from pystor.blob import Replica
from pystor.digest import Digest
from pystor.errors import DigestMismatch, MalformedDigest, NoSpace, NotFound, StorageError, StorageFull, TooLarge
from pystor.events import (
    BlobDuplicate,
    BlobStored,
    Event,
    HintAsked,
    LookedUp,
    MalformedName,
    Observer,
    RequestBegan,
    StorageFailed,
    UploadEnded,
    UploadRefused,
)
from pystor.http import statuses
from pystor.http.auth import Guard
from pystor.http.conditions import Selection, format_date, is_conditional, select
from pystor.http.messages import Field, Origin, Request, Response, as_json, encode_fields, gather_fields, text
from pystor.ingest import Body, Stored, already_stored, store, store_at_once
from pystor.pool import Pool
from pystor.reading import Reading
from pystor.shortcuts import Shortcut
from pystor.tiers import Tiers

_LARGEST_AT_ONCE: Final = 64 << 10
"""Bytes of a blob that are answered without a task of their own, if they are in the page cache."""

_FIXED_FIELDS: Final[tuple[Field, ...]] = (
    (b"accept-ranges", b"bytes"),
    (b"cache-control", b"public, max-age=31536000, immutable"),
    (b"x-content-type-options", b"nosniff"),
)

Redirect: TypeAlias = Callable[[Digest], str]


_KNOWN: Final = 8192
"""Blobs of which is remembered how they were answered; 3 KiB each."""

_HINTED: Final = HintAsked(hit=True, seconds=0.0)


class _Known(NamedTuple):
    """A small blob that was answered before."""

    digest: Digest
    tier: str
    headers: tuple[Field, ...]
    encoded: bytes
    shortcut: Shortcut


class Blobs:
    """Serves blobs from a pool, and stores them for the writer."""

    def __init__(
        self,
        tiers: Tiers,
        pool: Pool,
        guard: Guard,
        *,
        max_blob_size: int,
        observe: Observer,
        redirect: Redirect | None = None,
    ) -> None:
        """Serve what the tiers have; new blobs go to the pool. `max_blob_size` is in bytes.

        `redirect` gives the URL of a blob that a client is to fetch from its archive itself.
        """
        self._tiers: Final = tiers
        self._pool: Final = pool
        self._observe: Final = observe
        self._redirect: Final = redirect
        self._guard: Final = guard
        self._max_blob_size: Final = max_blob_size
        self._known: Final[dict[str, _Known]] = {}
        self._room: Final = memoryview(bytearray(_LARGEST_AT_ONCE))

    async def get(self, request: Request) -> Response:
        """Answer GET and HEAD; raises `StorError`."""
        name = request.path[1:]
        digest = self._asked(name)
        with _calling_it(name):
            replica = await self._tiers.find(digest)
        try:
            return self._respond(request, digest, replica)
        except BaseException:
            replica.close()
            raise

    def _asked(self, name: str) -> Digest:
        try:
            digest = Digest.parse(name)
        except MalformedDigest:
            self._observe(RequestBegan("get", None))
            self._observe(MalformedName("get"))
            raise
        self._observe(RequestBegan("get", digest))
        return digest

    def _respond(self, request: Request, digest: Digest, replica: Replica) -> Response:
        origin = self._origin(digest, replica)
        selection = _select(request.method, request.headers, digest, replica)
        if selection.status == 416:
            replica.close()
            return _past_the_end(replica.size)
        # A signed URL is for GET alone.
        wants_bytes = request.method == "GET" and selection.stop > selection.start
        if self._redirect is not None and origin.tier == "archive" and wants_bytes:
            replica.close()
            fields = ((b"location", self._redirect(digest).encode("ascii")), (b"content-length", b"0"))
            return Response(307, fields, origin=origin)
        headers = _headers(digest, replica, selection)
        if request.method == "HEAD" or selection.start == selection.stop:
            replica.close()
            return Response(selection.status, headers, origin=origin)
        body = Reading(self._tiers, digest, replica, selection.start, selection.stop)
        return Response(selection.status, headers, body, origin)

    def _origin(self, digest: Digest, replica: Replica) -> Origin:
        return Origin(digest, replica.storage, self._tiers.tier_of(replica).name)

    def answer(self, method: str, name: str, fields: list[Field]) -> Response | None:
        """Answer a GET or HEAD without waiting; None if that cannot be done."""
        known = self._known.get(name)
        if known is not None and not is_conditional(fields):
            response = self._answer_again(method, known)
            if response is not None:
                return response
        return self._answer_anew(method, name, gather_fields(fields))

    def _answer_again(self, method: str, known: _Known) -> Response | None:
        """Answer for a blob that was answered before; its replicas tell whether they are what they were."""
        began = time.perf_counter()
        found = known.shortcut.follow(self._room)
        if found is None:
            return None
        root, content = found
        self._observe(RequestBegan("get", known.digest))
        self._observe(_HINTED)
        self._observe(LookedUp(1, time.perf_counter() - began))
        origin = Origin(known.digest, root, known.tier)
        return Response(200, known.headers, content if method == "GET" else b"", origin, known.encoded)

    def _learn(self, name: str, digest: Digest, replica: Replica, headers: tuple[Field, ...]) -> None:
        """Take note of how a whole verified blob was answered."""
        known = self._known.get(name)
        if known is None or known.headers != headers:
            if len(self._known) >= _KNOWN:
                del self._known[next(iter(self._known))]
            tier = self._tiers.tier_of(replica).name
            known = _Known(digest, tier, headers, encode_fields(headers), self._tiers.shortcut(replica))
            self._known[name] = known
        known.shortcut.learn(replica)

    def _answer_anew(self, method: str, name: str, headers: Mapping[bytes, bytes]) -> Response | None:
        try:
            digest = Digest.parse(name)
        except MalformedDigest:
            return None  # rare: the patient way says what is wrong
        noted: list[Event] = [RequestBegan("get", digest)]
        replica = self._tiers.find_now(digest, noted)
        if replica is None:
            response: Response | None = statuses.response_for(NotFound(name))
        elif replica is False:
            return None
        else:
            with replica:
                response = self._answer_from(replica, method, digest, headers)
            if response is not None and response.status == 200 and response.body:
                self._learn(name, digest, replica, response.headers)
        if response is not None:
            for event in noted:
                self._observe(event)
        return response

    def _answer_from(
        self, replica: Replica, method: str, digest: Digest, headers: Mapping[bytes, bytes]
    ) -> Response | None:
        known = self._tiers.knows(replica, digest)
        if replica.size > _LARGEST_AT_ONCE and not (known and method == "HEAD"):
            return None
        selection = _select(method, headers, digest, replica)
        content = b""
        if not known or (method != "HEAD" and selection.stop > selection.start):
            whole = replica.read_cached(0, replica.size)
            if whole is None or not (known or self._tiers.vouch(replica, whole, digest)):
                return None
            content = whole[selection.start : selection.stop] if method != "HEAD" else b""
        if selection.status == 416:
            return _past_the_end(replica.size)
        return Response(selection.status, _headers(digest, replica, selection), content, self._origin(digest, replica))

    async def post(self, request: Request) -> Response:
        """Answer POST and PUT of a named blob; raises `StorError`."""
        name = request.path[1:]
        try:
            digest = Digest.parse(name)
        except MalformedDigest as error:
            with self._an_upload(None):
                self._observe(MalformedName("post"))
                return statuses.malformed_upload(error)
        with self._an_upload(digest), _calling_it(name):
            self._guard.admit(request.headers)
            with self._refusals(digest):
                stored = await self._store(request, digest)
            return self._stored(request, stored)

    async def _store(self, request: Request, digest: Digest) -> Stored:
        content = request.at_once()
        if content is not None and self._is_as_said(request, content):
            stored = await store_at_once(self._pool, content, digest)
            if stored is not None:
                return stored
        surveys = await self._pool.survey(digest)
        return already_stored(digest, surveys) or await store(self._pool, self._body(request), digest, surveys)

    def _is_as_said(self, request: Request, content: bytes) -> bool:
        return len(content) <= self._max_blob_size and request.declared in (None, len(content))

    async def post_unnamed(self, request: Request) -> Response:
        """Answer POST of a blob whose name is to be computed; raises `StorError`."""
        with self._an_upload(None):
            self._guard.admit(request.headers)
            with self._refusals(None):
                stored = await store(self._pool, self._body(request), None)
            return self._stored(request, stored, (b"location", b"/" + stored.digest.hex.encode("ascii")))

    @contextmanager
    def _an_upload(self, digest: Digest | None) -> Iterator[None]:
        """Tell when an upload begins and when it ends, however it does."""
        self._observe(RequestBegan("post", digest))
        try:
            yield
        finally:
            self._observe(UploadEnded())

    def _stored(self, request: Request, stored: Stored, *headers: Field) -> Response:
        if stored.created:
            self._observe(BlobStored(stored.digest, stored.paths, request.received()))
        else:
            self._observe(BlobDuplicate(stored.digest))
        return as_json(201 if stored.created else 200, stored.paths, *headers)

    @contextmanager
    def _refusals(self, digest: Digest | None) -> Iterator[None]:
        """Report uploads that come to nothing, and the storage that is to blame."""
        try:
            with self._failures(digest):
                yield
        except DigestMismatch:
            self._observe(UploadRefused("bad_sha"))
            raise
        except (NoSpace, StorageFull):
            self._observe(UploadRefused("no_space"))
            raise
        except Exception:
            self._observe(UploadRefused("unknown"))
            raise

    @contextmanager
    def _failures(self, digest: Digest | None) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            self._observe(StorageFailed(error, digest))
            raise

    def _body(self, request: Request) -> Body:
        declared = request.declared
        if declared is not None and declared > self._max_blob_size:
            raise TooLarge(self._max_blob_size)
        return Body(request.body, declared, self._max_blob_size)


@contextmanager
def _calling_it(name: str) -> Iterator[None]:
    """Tell errors about a blob by the name that the client gave it, in the client's case."""
    try:
        yield
    except NotFound:
        raise NotFound(name) from None
    except DigestMismatch as error:
        raise DigestMismatch(error.real, name) from None


def _select(method: str, headers: Mapping[bytes, bytes], digest: Digest, replica: Replica) -> Selection:
    return select(headers, size=replica.size, etag=_etag(digest), modified=replica.modified, ranges=method == "GET")


def _etag(digest: Digest) -> bytes:
    return b'"%b"' % digest.hex.encode("ascii")


def _headers(digest: Digest, replica: Replica, selection: Selection) -> tuple[Field, ...]:
    return _make_headers(digest, replica.size, replica.modified, selection)


@lru_cache(maxsize=1024)  # a hot blob is answered with the same fields again and again
def _make_headers(digest: Digest, size: int, modified: int, selection: Selection) -> tuple[Field, ...]:
    fields: list[Field] = [
        (b"etag", _etag(digest)),
        (b"last-modified", format_date(modified)),
        (b"repr-digest", b"sha-256=:%b:" % digest.base64.encode("ascii")),
        *_FIXED_FIELDS,
    ]
    if selection.status != 304:
        fields.append((b"content-type", b"application/octet-stream"))
        fields.append((b"content-length", b"%d" % (selection.stop - selection.start)))
    if selection.status == 206:
        fields.append((b"content-range", b"bytes %d-%d/%d" % (selection.start, selection.stop - 1, size)))
    return tuple(fields)


def _past_the_end(size: int) -> Response:
    return text(
        416,
        f"The range begins past the end of the file, which has {size} bytes",
        (b"content-range", b"bytes */%d" % size),
    )
