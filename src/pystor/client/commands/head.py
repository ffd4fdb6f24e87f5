"""`stor head`."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Final

from pystor.client import progress
from pystor.client.aio import AsyncClient
from pystor.client.commands import looping, running
from pystor.client.commands.hearing import complain
from pystor.client.values import Blob
from pystor.errors import StorError

_NO_YEAR: Final = 253_402_300_800  # seconds since 1970 at the end of the year 9999


def run(given: argparse.Namespace) -> int:
    """Describe each blob in a line; the status is 1 if there is none of one."""
    return looping.run(_describe(given, running.client(given)))


async def _describe(given: argparse.Namespace, client: AsyncClient) -> int:
    async with client:
        return max([await _one(client, name, as_json=given.json) for name in given.names])


async def _one(client: AsyncClient, name: str, *, as_json: bool) -> int:
    try:
        blob = await client.head(name)
    except StorError as error:
        complain(f"stor: {error}")
        return 1
    print(_json(blob) if as_json else f"{blob.digest.hex}  {progress.size(blob.size):>10}  {_when(blob)}")
    return 0


def _when(blob: Blob) -> str:
    if blob.modified is None or blob.modified >= _NO_YEAR:
        return "-"
    return datetime.fromtimestamp(blob.modified, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")


def _json(blob: Blob) -> str:
    facts = {"sha": blob.digest.hex, "size": blob.size, "modified": blob.modified, "server": blob.server}
    return json.dumps(facts)
