"""The fast path: a GET or HEAD of a blob that is answered at once, because nothing has to be waited for.

Such is what lies, known to be good, in the page cache of a local storage, and what no storage has. Everything else goes
the long way, and every answer is the same there.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from pystor.blob import Replica
from pystor.digest import Digest
from pystor.errors import MalformedDigest, NotFound
from pystor.events import AnsweredAtOnce, Observer
from pystor.http import statuses
from pystor.http.conditions import is_conditional
from pystor.http.messages import Field, Response, bytes_of, encode_fields, gather_fields
from pystor.http.representation import Dated, head_of, head_of_part, past_the_end, select_of
from pystor.shortcuts import Shortcut
from pystor.tiers import Tiers

_LARGEST: Final = 64 << 10
"""Bytes of a blob that are answered without a task of their own."""

_KNOWN: Final = 8192
"""Blobs of which is remembered how they were answered; 2 KiB each."""

_ADMITTED: Final = 1 / 16
"""The part of the newcomers that takes the place of others: a wider circle of blobs must not push out all in turn."""

_NAME: Final = "x" * 64
_MISSING: Final = statuses.response_for(NotFound(_NAME))
_MISSING_FIELDS: Final = encode_fields(_MISSING.headers)
_BEFORE, _, _AFTER = bytes(bytes_of(_MISSING)).partition(_NAME.encode())


class _Source(Dated, Protocol):
    """What is read without waiting: an open replica, or the way to one."""

    def read_cached(self, offset: int, room: memoryview, /) -> bool:
        """Fill the room with the bytes from `offset` on; False if that takes waiting."""
        ...


class _Hashed(NamedTuple):
    """A replica whose bytes are here: these were found good, and what the file has by now may be something else."""

    size: int
    modified: int
    content: memoryview

    def read_cached(self, offset: int, room: memoryview, /) -> bool:
        """Fill the room, which may be where the content is."""
        room[:] = self.content[offset : offset + len(room)]
        return True


class _Known(NamedTuple):
    """A blob that was answered before."""

    digest: Digest
    tier: str
    shortcut: Shortcut[bytes]
    """With the header fields of the whole, as they are written, for each replica."""


class FastPath:
    """Answers what is hot; remembers how."""

    def __init__(self, tiers: Tiers, observe: Observer, dice: Callable[[], float] = random.random) -> None:
        """Answer what the tiers have in memory; `observe` is told of each answer; `dice` give numbers in [0, 1)."""
        self._dice: Final = dice
        self._tiers: Final = tiers
        self._observe: Final = observe
        self._known: Final[OrderedDict[str, _Known]] = OrderedDict()
        self._room: Final = memoryview(bytearray(_LARGEST))

    def answer(self, method: str, path: str, fields: list[Field], client: str) -> Response | None:
        """Answer a GET or HEAD of a slash and 64 letters or digits; None if that cannot be done without waiting.

        The body may be memory that the next answer uses.
        """
        began = time.perf_counter()
        conditions = gather_fields(fields) if is_conditional(fields) else None
        known = self._known.get(path)
        if known is None:
            return self._answer_anew(method, path, conditions, client, began)
        digest, tier, shortcut = known
        way = shortcut.pick()
        response = None if way is None else self._answer(way, digest, method, conditions, way.note)
        if way is None or response is None:
            return self._answer_anew(method, path, conditions, client, began)
        size, seconds = len(bytes_of(response)), time.perf_counter() - began
        status, root = response.status, way.storage
        self._observe(AnsweredAtOnce(method, path, status, digest, True, 1, size, seconds, client, root, tier))
        return response

    def _answer_anew(
        self, method: str, path: str, conditions: Mapping[bytes, bytes] | None, client: str, began: float
    ) -> Response | None:
        """Look for the blob, in what the kernel has in memory."""
        try:
            digest = Digest.parse(path[1:])
        except MalformedDigest:
            return None  # rare: the long way says what is wrong
        result = self._tiers.find_now(digest)
        if result is None:
            return None
        replica, hinted, attempts = result
        if replica is None:
            response, root, tier = _missing(path[1:]), None, None
        else:
            root, tier = replica.storage, self._tiers.tier_of(replica).name
            with replica:
                found = self._answer_from(replica, digest, method, path, conditions)
            if found is None:
                return None
            response = found
        status, size = response.status, 0 if method == "HEAD" else len(bytes_of(response))
        seconds = time.perf_counter() - began
        self._observe(AnsweredAtOnce(method, path, status, digest, hinted, attempts, size, seconds, client, root, tier))
        return response

    def _answer_from(
        self, replica: Replica, digest: Digest, method: str, path: str, conditions: Mapping[bytes, bytes] | None
    ) -> Response | None:
        """Answer from a replica that is known to be good, or can be hashed now; remember one that was known."""
        known = self._tiers.knows(replica, digest)
        source = replica if known else self._hashed(replica, digest)
        if source is None:
            return None
        encoded = head_of(replica, digest)
        response = self._answer(source, digest, method, conditions, encoded)
        if known and response is not None:
            self._learn(path, digest, replica, encoded)
        return response

    def _hashed(self, replica: Replica, digest: Digest) -> _Hashed | None:
        """Read a small replica, if it is good; None also if that cannot be told now."""
        content = self._read(replica, 0, replica.size)
        if content is None or not self._tiers.vouch(replica, content, digest):
            return None
        return _Hashed(replica.size, replica.modified, content)

    def _answer(
        self, source: _Source, digest: Digest, method: str, conditions: Mapping[bytes, bytes] | None, encoded: bytes
    ) -> Response | None:
        """Answer from what is good, if what is wanted of it is small; `encoded` are the header fields of the whole."""
        if conditions is not None:
            return self._answer_part(source, digest, method, conditions, encoded)
        content = self._read(source, 0, source.size if method == "GET" else 0)
        return None if content is None else Response(200, (), content, None, encoded)

    def _answer_part(
        self, source: _Source, digest: Digest, method: str, conditions: Mapping[bytes, bytes], encoded: bytes
    ) -> Response | None:
        selection = select_of(source, digest, method, conditions)
        start, stop = (selection.start, selection.stop) if method == "GET" else (0, 0)
        content = self._read(source, start, stop)
        if content is None:
            return None
        if selection.status == 416:
            return past_the_end(source.size)
        return Response(selection.status, (), content, None, head_of_part(encoded, source.size, selection))

    def _read(self, source: _Source, start: int, stop: int) -> memoryview | None:
        if stop - start > _LARGEST:
            return None
        room = self._room[: stop - start]
        return room if source.read_cached(start, room) else None

    def _learn(self, path: str, digest: Digest, replica: Replica, encoded: bytes) -> None:
        """Take note of how a blob is answered that was asked for before: most are asked for once."""
        known = self._known.get(path)
        if known is None:
            if len(self._known) >= _KNOWN:
                if self._dice() > _ADMITTED:
                    return
                self._known.popitem(last=False)
            known = _Known(digest, self._tiers.tier_of(replica).name, self._tiers.shortcut(replica))
            self._known[path] = known
        known.shortcut.learn(replica, encoded)


def _missing(name: str) -> Response:
    """Answer what is nowhere: as `statuses` does, for names that are all of one length."""
    return Response(404, _MISSING.headers, _BEFORE + name.encode() + _AFTER, None, _MISSING_FIELDS)
