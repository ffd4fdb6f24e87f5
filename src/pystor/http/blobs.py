"""The resource `/SHA`, and `/` as far as it takes uploads."""

from __future__ import annotations

from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import Final, TypeAlias

from pystor.blob import Replica
from pystor.digest import Digest
from pystor.errors import DigestMismatch, MalformedDigest, NoSpace, NotFound, StorageError, StorageFull
from pystor.events import (
    BlobDuplicate,
    BlobStored,
    MalformedName,
    Observer,
    RequestBegan,
    StorageFailed,
    UploadEnded,
    UploadRefused,
)
from pystor.http import statuses
from pystor.http.auth import Guard
from pystor.http.fast_path import FastPath
from pystor.http.messages import Field, Origin, Request, Response, typed
from pystor.http.representation import headers_of, past_the_end, select_of
from pystor.ingest import Body, Stored, already_stored, store, store_at_once
from pystor.pool import Pool
from pystor.reading import Reading
from pystor.tiers import Tiers

Redirect: TypeAlias = Callable[[Digest], str]

_SIGNED: Final[tuple[Field, ...]] = (
    (b"content-length", b"0"),
    (b"cache-control", b"no-store"),  # a cache may keep it for longer than the signature is good
)


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
        self.fast_path: Final = FastPath(tiers, observe)

    async def get(self, request: Request) -> Response:
        """Answer GET and HEAD; raises `StorError`."""
        name = request.path[1:]
        digest = self._asked(name)
        try:
            replica = await self._tiers.find(digest)
        except NotFound:
            raise NotFound(name) from None  # in the client's case
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
        origin = Origin(digest, replica.storage, self._tiers.tier_of(replica).name)
        selection = select_of(replica, digest, request.method, request.headers)
        if selection.status == 416:
            replica.close()
            return past_the_end(replica.size)._replace(origin=origin)
        # A signed URL is for GET alone.
        wants_bytes = request.method == "GET" and selection.stop > selection.start
        if self._redirect is not None and origin.tier == "archive" and wants_bytes:
            replica.close()
            return Response(307, ((b"location", self._redirect(digest).encode("ascii")), *_SIGNED), origin=origin)
        headers = headers_of(replica, digest, selection)
        if request.method == "HEAD" or selection.start == selection.stop:
            replica.close()
            return Response(selection.status, headers, origin=origin)
        body = Reading(self._tiers, digest, replica, selection.start, selection.stop)
        return Response(selection.status, headers, body, origin)

    async def post(self, request: Request) -> Response:
        """Answer POST and PUT of a named blob; raises `StorError`."""
        name = request.path[1:]
        try:
            digest = Digest.parse(name)
        except MalformedDigest as error:
            for event in (RequestBegan("post", None), MalformedName("post"), UploadEnded()):
                self._observe(event)
            return statuses.malformed_upload(error)
        try:
            return _stored(await self._take_in(request, digest))
        except DigestMismatch as error:
            raise DigestMismatch(error.real, name) from None  # in the client's case

    async def post_unnamed(self, request: Request) -> Response:
        """Answer POST of a blob whose name is to be computed; raises `StorError`."""
        stored = await self._take_in(request, None)
        return _stored(stored, (b"location", b"/" + stored.digest.hex.encode("ascii")))

    async def _take_in(self, request: Request, digest: Digest | None) -> Stored:
        """Store what the writer sends; tell that it begins, what becomes of it, and that it has ended."""
        self._observe(RequestBegan("post", digest))
        try:
            self._guard.admit(request.headers)
            try:
                stored = await self._store(request, digest)
            except Exception as error:
                self._tell_refused(error, digest)
                raise
            self._tell_stored(stored, request.body.received)
        finally:
            self._observe(UploadEnded())
        return stored

    async def _store(self, request: Request, digest: Digest | None) -> Stored:
        if digest is None:
            return await store(self._pool, self._body(request), None)
        content = request.body.at_once()
        if content is not None and self._is_as_said(request, content):
            stored = await store_at_once(self._pool, content, digest)
            if stored is not None:
                return stored
        surveys = await self._pool.survey(digest)
        return already_stored(digest, surveys) or await store(self._pool, self._body(request), digest, surveys)

    def _is_as_said(self, request: Request, content: bytes) -> bool:
        return len(content) <= self._max_blob_size and request.declared in (None, len(content))

    def _tell_stored(self, stored: Stored, size: int) -> None:
        if stored.created:
            self._observe(BlobStored(stored.digest, stored.paths, size))
        else:
            self._observe(BlobDuplicate(stored.digest))
        if isinstance(stored.unmended, StorageError):
            self._observe(StorageFailed(stored.unmended, stored.digest))

    def _tell_refused(self, error: Exception, digest: Digest | None) -> None:
        """Report an upload that came to nothing, and the storage that is to blame."""
        if isinstance(error, StorageError):
            self._observe(StorageFailed(error, digest))
        if isinstance(error, DigestMismatch):
            self._observe(UploadRefused("bad_sha"))
        elif isinstance(error, (NoSpace, StorageFull)):
            self._observe(UploadRefused("no_space"))
        else:
            self._observe(UploadRefused("unknown"))

    def _body(self, request: Request) -> Body:
        return Body(request.body.pieces(), request.declared, self._max_blob_size)


def _stored(stored: Stored, *headers: Field) -> Response:
    """Answer where a blob is now, as JSON."""
    paths = f"[{', '.join(map(encode_basestring_ascii, stored.paths))}]"  # as json.dumps does with each
    return typed(201 if stored.created else 200, b"application/json", paths.encode(), *headers)
