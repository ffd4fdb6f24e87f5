"""The fast door: a GET or HEAD of a blob that is answered at once, because nothing has to be waited for.

Such is what lies, known to be good, in the page cache of a local storage, and what no storage has. Everything else goes
the long way, and every answer is the same there.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from pystor.blob import Replica
from pystor.digest import Digest
from pystor.errors import MalformedDigest, NotFound
from pystor.events import AnsweredAtOnce, Observer
from pystor.http import statuses
from pystor.http.conditions import is_conditional
from pystor.http.messages import Field, Origin, Response, bytes_of, encode_fields, gather_fields
from pystor.http.representation import head_of, headers_of, past_the_end, select_of
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


class _Known(NamedTuple):
    """A small blob that was answered before."""

    digest: Digest
    tier: str
    shortcut: Shortcut[bytes]
    """With the header fields for each replica, as they are written."""


class Hot:
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
        plain = not is_conditional(fields)
        known = self._known.get(path) if plain else None
        if known is not None:
            found = known.shortcut.follow(self._room if method == "GET" else None)
            if found is not None:
                root, content, encoded = found
                size, seconds = len(content), time.perf_counter() - began
                self._observe(
                    AnsweredAtOnce(method, path, 200, known.digest, True, 1, size, seconds, client, root, known.tier)
                )
                return Response(200, (), content, None, encoded)
        try:
            digest = Digest.parse(path[1:])
        except MalformedDigest:
            return None  # rare: the long way says what is wrong
        glimpse = self._tiers.find_now(digest)
        if glimpse is None:
            return None
        response = self._answer_anew(glimpse.replica, method, path, digest, None if plain else fields)
        if response is None:
            return None
        _, storage, tier = response.origin or (digest, None, None)
        size, seconds = 0 if method == "HEAD" else len(bytes_of(response)), time.perf_counter() - began
        hinted, attempts = glimpse.hinted, glimpse.attempts
        self._observe(
            AnsweredAtOnce(
                method, path, response.status, digest, hinted, attempts, size, seconds, client, storage, tier
            )
        )
        return response

    def _answer_anew(
        self, replica: Replica | None, method: str, path: str, digest: Digest, conditions: list[Field] | None
    ) -> Response | None:
        if replica is None:
            return _missing(path[1:])
        with replica:
            if conditions is None:
                return self._answer_whole(replica, path, method, digest)
            return self._answer_part(replica, method, digest, gather_fields(conditions))

    def _answer_whole(self, replica: Replica, path: str, method: str, digest: Digest) -> Response | None:
        """Answer from a replica, if it is known to be good or can be hashed now, and if it is small."""
        known = self._tiers.knows(replica, digest)
        content = self._content(replica, digest, 0, replica.size if method == "GET" else 0, known=known)
        if content is None:
            return None
        encoded = head_of(replica, digest)
        if known and 0 < replica.size <= _LARGEST:
            self._learn(path, digest, replica, encoded)
        return Response(200, (), content, self._origin(replica, digest), encoded)

    def _answer_part(
        self, replica: Replica, method: str, digest: Digest, headers: Mapping[bytes, bytes]
    ) -> Response | None:
        """Do the same when the header fields may ask for less than the whole."""
        selection = select_of(replica, digest, method, headers)
        start, stop = (selection.start, selection.stop) if method == "GET" else (0, 0)
        content = self._content(replica, digest, start, stop, known=self._tiers.knows(replica, digest))
        if content is None:
            return None
        origin = self._origin(replica, digest)
        if selection.status == 416:
            return past_the_end(replica.size, origin)
        return Response(selection.status, headers_of(replica, digest, selection), content, origin)

    def _origin(self, replica: Replica, digest: Digest) -> Origin:
        return Origin(digest, replica.storage, self._tiers.tier_of(replica).name)

    def _content(self, replica: Replica, digest: Digest, start: int, stop: int, *, known: bool) -> memoryview | None:
        return self._read(replica, start, stop) if known else self._verified(replica, digest, start, stop)

    def _read(self, replica: Replica, start: int, stop: int) -> memoryview | None:
        if stop - start > _LARGEST:
            return None
        room = self._room[: stop - start]
        return room if replica.read_cached(start, room) else None

    def _verified(self, replica: Replica, digest: Digest, start: int, stop: int) -> memoryview | None:
        """Read a part of a small replica if the whole is its blob; None also if that cannot be told now."""
        whole = self._read(replica, 0, replica.size)
        return whole[start:stop] if whole is not None and self._tiers.vouch(replica, whole, digest) else None

    def _learn(self, path: str, digest: Digest, replica: Replica, encoded: bytes) -> None:
        """Take note of how a whole blob is answered that was asked for before: most are asked for once."""
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
