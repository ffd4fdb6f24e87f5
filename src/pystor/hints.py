"""The location cache: where a blob was found last. A hint that orders the look-up, never the truth."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final, Protocol

from pystor.digest import Digest
from pystor.events import HintAsked, Observer

_REMEMBERED: Final = 65_536


class SharedCache(Protocol):
    """The level that all workers, on all machines, share."""

    async def get(self, digest: Digest) -> str | None:
        """Tell the path that was noted for a blob; None within a bounded time if there is none, or no answer."""
        ...

    def put(self, digest: Digest, path: str) -> None:
        """Note a path; whether that succeeds is nobody's business."""
        ...


class NoSharedCache:
    """What stands in for the shared level when none is configured."""

    async def get(self, digest: Digest) -> str | None:  # noqa: ARG002  that of the protocol
        """Know nothing."""
        return None

    def put(self, digest: Digest, path: str) -> None:
        """Forget at once."""


class Hints:
    """Two levels: one in this process, bounded, and the shared one behind it."""

    def __init__(self, shared: SharedCache) -> None:
        self._shared: Final = shared
        self.whole: Final = isinstance(shared, NoSharedCache)
        """Whether what this process has not noted is not noted at all."""
        self._paths: Final[OrderedDict[str, str]] = OrderedDict()

    def get_now(self, digest: Digest) -> str | None:
        """Tell the path that this process has noted."""
        return self._paths.get(digest.hex)

    async def get(self, digest: Digest, tell: Observer) -> str | None:
        """Tell the path that any process has noted, and tell how that went."""
        began = time.perf_counter()
        path = self.get_now(digest)
        if path is None:
            path = await self._shared.get(digest)
        tell(HintAsked(path is not None, time.perf_counter() - began))
        return path

    def put(self, digest: Digest, path: str) -> None:
        """Note where a blob was found."""
        if digest.hex in self._paths:
            return
        if len(self._paths) >= _REMEMBERED:
            self._paths.popitem(last=False)
        self._paths[digest.hex] = path
        self._shared.put(digest, path)

    def drop(self, digest: Digest) -> None:
        """Forget a hint that was wrong."""
        self._paths.pop(digest.hex, None)
