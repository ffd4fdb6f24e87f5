"""`stor status`: a table of the servers and their storages."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pystor.client import progress
from pystor.client.aio import AsyncClient
from pystor.client.commands import looping, running
from pystor.client.commands.hearing import one_line
from pystor.client.values import Status

_BAR: Final = 20
_MOST: Final = 1 << 80  # bytes; more is no size of a storage


def run(given: argparse.Namespace) -> int:
    """Print the table; the exit status is 0 only if every server is well."""
    return looping.run(_show(given, running.client(given)))


async def _show(given: argparse.Namespace, client: AsyncClient) -> int:
    async with client:
        found = await client.status()
    for status in found:
        for line in [json.dumps(status._asdict())] if given.json else map(one_line, table(status)):
            print(line)
    return 0 if all(status.ok for status in found) else 1


def table(status: Status) -> Iterator[str]:
    """Draw one server: a line for it, and one for each storage, with what is full and what is wrong."""
    version = f" (Stor {status.version})" if status.version else ""
    yield f"{status.server}{version}: {status.text}"
    names = [str(row.get("path", "?")) for row in status.storages]
    width = max(map(len, names), default=0)
    for row, name in zip(status.storages, names, strict=True):
        yield f"  {row.get('replica_set', '?')}  {name.ljust(width)}  {_fill(row)}  {_health(row)}".rstrip()


def _fill(row: Mapping[str, Any]) -> str:
    total, free = row.get("total_bytes"), row.get("free_bytes")
    if not (isinstance(total, int) and isinstance(free, int) and 0 <= free <= total < _MOST and total):
        return f"[{'?' * _BAR}]     {'':>16}"
    part = 1 - free / total
    filled = round(part * _BAR)
    return f"[{'#' * filled}{'.' * (_BAR - filled)}] {part:4.0%} {progress.size(free):>10} free"


def _health(row: Mapping[str, Any]) -> str:
    state = "ok" if row.get("available") else "AWAY"
    state += "" if row.get("writable") else ", read-only"
    error = row.get("last_error")
    return f"{state}: {error}" if error else state
