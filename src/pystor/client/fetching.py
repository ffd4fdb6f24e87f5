"""Many downloads, one as patiently as the other: whatever they take."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Final

from pystor.client.aio import AsyncClient
from pystor.client.bulk import Meter
from pystor.client.downloads import Downloads, Input
from pystor.client.pipes import readable
from pystor.client.saving import Nowhere
from pystor.digest import Digest
from pystor.errors import StorError


async def asked(first: Sequence[Digest], rest: Input) -> AsyncGenerator[Sequence[Digest], None]:
    """Yield digests that are known, and then what is read, as it comes."""
    yield first
    while rest.descriptor is not None:
        await readable(rest.descriptor)
        yield rest.read()


class Fetching:
    """Downloads what is asked for."""

    def __init__(self, client: AsyncClient, downloads: Downloads) -> None:
        self._client: Final = client
        self._downloads: Final = downloads

    async def fetch(self, digests: Iterator[Digest]) -> None:
        """Download them, one after the other; every outcome is an event, and none is raised but a cancellation."""
        while (digest := self._downloads.begin(digests)) is not None:
            await self._fetch(digest)

    async def _fetch(self, digest: Digest) -> None:
        path = self._downloads.path_of(digest)
        meter = Meter(self._downloads.observe, sized=False)
        failed = self._downloads.take_failure(digest)
        try:
            if path is None:
                blob = await self._client.drop(digest, Nowhere(), observe=meter, failed=failed)
            else:
                blob = await self._client.save(digest, path, observe=meter, failed=failed)
        except (StorError, OSError) as error:
            self._downloads.fail(digest, error)
        else:
            self._downloads.end(digest, blob.size)
