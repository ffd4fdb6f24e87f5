"""The fast path: a GET or HEAD of a blob that is answered at once, because nothing has to be waited for.

Such is what lies, known to be good, in the page cache of a local storage, and what no storage has. Everything else goes
the long way, and every answer is the same there.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias

from pystor.blob import Replica
from pystor.digest import Digest
from pystor.errors import MalformedDigest, NotFound
from pystor.events import AnsweredAtOnce, Observer
from pystor.http import statuses
from pystor.http.messages import Conditions, Response, bytes_of, encode_fields
from pystor.http.representation import Dated, head_of, head_of_part, past_the_end, select_of
from pystor.pool import Pool
from pystor.shortcuts import Shortcut
from pystor.tiers import Tiers

_LARGEST: Final = 64 << 10
"""Bytes of a blob that are answered without a task of their own."""

_KNOWN: Final = 8192
"""Blobs of which is remembered how they were answered; 4 KiB each."""

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


_Whole: TypeAlias = tuple[bytes, dict[str, tuple[Response | None, memoryview]]]
"""The header fields of an answer with the whole of a replica, as they are written; and by methods what was answered so.

With it the room of its body; None is answered the long way, since it is too large.
"""


@dataclass(frozen=True, slots=True)
class _Known:
    """A blob that was answered before."""

    path: str
    digest: Digest
    tier: str
    shortcut: Shortcut[_Whole]


class FastPath:
    """Answers what is hot; remembers how."""

    def __init__(self, tiers: Tiers, observe: Observer, dice: Callable[[], float] = random.random) -> None:
        """Answer what the tiers have in memory; `observe` is told of each answer; `dice` give numbers in [0, 1)."""
        self._dice: Final = dice
        self._tiers: Final = tiers
        self._observe: Final = observe
        self._known: Final[OrderedDict[bytes, _Known]] = OrderedDict()
        self._room: Final = memoryview(bytearray(_LARGEST))

    def answer(self, method: str, target: bytes, conditions: Conditions, client: str) -> Response | None:
        """Answer a GET or HEAD of a slash and 64 bytes of ASCII; None if that cannot be done without waiting.

        The body may be memory that the next answer uses.
        """
        began = time.perf_counter()
        known = self._known.get(target)
        way = None if known is None else known.shortcut.pick()
        if known is None or way is None:
            return self._answer_anew(method, target, conditions, client, began)
        path, digest = known.path, known.digest
        response = self._answer(way, digest, method, conditions, way.note)
        if response is None:
            return self._answer_anew(method, target, conditions, client, began)
        size, seconds = len(response.body), time.perf_counter() - began  # type: ignore[arg-type]  # bytes, no stream
        status, root, tier = response.status, way.storage, known.tier
        self._observe(AnsweredAtOnce(method, path, status, digest, True, 1, size, seconds, client, root, tier))
        return response

    def _answer_anew(
        self, method: str, target: bytes, conditions: Conditions, client: str, began: float
    ) -> Response | None:
        """Look for the blob, in what the kernel has in memory."""
        path = target.decode("ascii")
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
                found = self._answer_from(replica, digest, method, target, conditions)
            if found is None:
                return None
            response = found
        size = 0 if method == "HEAD" else len(response.body)  # type: ignore[arg-type]  # bytes, no stream
        status, seconds = response.status, time.perf_counter() - began
        self._observe(AnsweredAtOnce(method, path, status, digest, hinted, attempts, size, seconds, client, root, tier))
        return response

    def _answer_from(
        self, replica: Replica, digest: Digest, method: str, target: bytes, conditions: Conditions
    ) -> Response | None:
        """Answer from a replica that is known to be good, or can be hashed now; remember one that was known."""
        pool = self._tiers.tier_of(replica).pool
        known = pool.verifier.knows(replica, digest)
        source = replica if known else self._hashed(replica, digest, pool)
        if source is None:
            return None
        whole: _Whole = head_of(replica, digest), {}
        response = self._answer(source, digest, method, conditions, whole)
        if known and response is not None:
            self._learn(target, digest, replica, whole)
        return response

    def _hashed(self, replica: Replica, digest: Digest, pool: Pool) -> _Hashed | None:
        """Read a small replica, if it is good; None also if that cannot be told now.

        A bad one is reported: the long way may begin with another replica, and not come upon it.
        """
        content = self._read(replica, 0, replica.size)
        if content is None:
            return None
        if not pool.verifier.vouch(replica, content, digest):
            pool.distrust(replica, digest)
            return None
        return _Hashed(replica.size, replica.modified, content)

    def _answer(
        self, source: _Source, digest: Digest, method: str, conditions: Conditions, whole: _Whole
    ) -> Response | None:
        """Answer from what is good, if what is wanted of it is small."""
        encoded, answers = whole
        if conditions:
            return self._answer_part(source, digest, method, conditions, encoded)
        answer = answers.get(method)
        if answer is None:
            answer = answers[method] = self._prepare(encoded, source.size if method == "GET" else 0)
        response, room = answer
        return response if response is not None and source.read_cached(0, room) else None

    def _prepare(self, encoded: bytes, size: int) -> tuple[Response | None, memoryview]:
        room = self._room[:size]
        return (Response(200, (), room, None, encoded) if len(room) == size else None), room

    def _answer_part(
        self, source: _Source, digest: Digest, method: str, conditions: Conditions, encoded: bytes
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

    def _learn(self, target: bytes, digest: Digest, replica: Replica, whole: _Whole) -> None:
        """Take note of how a blob is answered that was asked for before: most are asked for once."""
        known = self._known.get(target)
        if known is None:
            if len(self._known) >= _KNOWN:
                if self._dice() > _ADMITTED:
                    return
                self._known.popitem(last=False)
            path, tier = target.decode("ascii"), self._tiers.tier_of(replica)
            shortcut = Shortcut[_Whole](tier.pool.set_of(replica), tier.pool.verifier)
            known = self._known[target] = _Known(path, digest, tier.name, shortcut)
        known.shortcut.learn(replica, whole)


def _missing(name: str) -> Response:
    """Answer what is nowhere: as `statuses` does, for names that are all of one length."""
    return Response(404, _MISSING.headers, _BEFORE + name.encode() + _AFTER, None, _MISSING_FIELDS)
