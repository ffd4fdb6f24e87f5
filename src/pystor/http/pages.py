"""The resources beside the blobs: `/` for people, `/status` for operators, `/live` for whoever restarts processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from pystor import __version__
from pystor.blob import UNKNOWN_ROOM, Space
from pystor.bulkhead import Bulkhead
from pystor.errors import StorageError
from pystor.events import HealthChecked, Observer
from pystor.http.messages import Field, Request, Response, as_json, text, typed
from pystor.pool import Pool

_TIMEOUT: Final = 0.8  # seconds; whoever asks how the storages are wants to know soon
_PATIENCE: Final = 0.1  # seconds; who asks while others are told waits so long for the end of that
_VARY: Final[Field] = (b"vary", b"accept")

_FRONT_PAGE: Final = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stor</title>
<style>
  body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem; }}
  code, pre {{ font: .9rem/1.5 ui-monospace, monospace; background: #8882; border-radius: .25rem; }}
  code {{ padding: .1rem .3rem; }} pre {{ padding: .75rem 1rem; overflow-x: auto; }}
  :root {{ color-scheme: light dark; }}
</style>
<h1>This is Stor {__version__}</h1>
<p>Every file here is named by its SHA-256. <code>GET /SHA</code> serves it, <code>POST /SHA</code> verifies it and
stores it on every storage of a replica set.</p>
<pre>sha=$(sha256sum FILE | cut -c1-64)
curl -u USER:PASSWORD --data-binary @FILE "$SERVER/$sha"
curl -o COPY "$SERVER/$sha"</pre>
<p><a href="/status">How the storages are</a></p>
</html>
"""


def front(request: Request) -> Response:
    """Say what this is: a page for a browser, a line for everybody else."""
    if request.accepts(b"text/html"):
        return typed(200, b"text/html; charset=utf-8", _FRONT_PAGE.encode(), _VARY)
    return text(200, f"This is Stor {__version__}", _VARY)


def live() -> Response:
    """Answer while the process does; touches no disk."""
    return text(200, "OK")


class Health:
    """How the storages are, asked once for all who want to know at the same time: a thousand of them take a while."""

    def __init__(self, members: Iterable[Bulkhead]) -> None:
        """Ask nobody yet."""
        self.members: Final = tuple(members)
        self._round: asyncio.Task[list[Space | StorageError]] | None = None
        """The one that was begun last."""
        self._next: asyncio.Task[list[Space | StorageError]] | None = None

    async def look(self) -> list[Space | StorageError]:
        """Tell the room of each storage, or what is wrong, by a look that begins after this was asked."""
        if self._next is None:
            self._next = asyncio.create_task(self._look(self._round))
        return await asyncio.shield(self._next)

    async def _look(self, before: asyncio.Task[list[Space | StorageError]] | None) -> list[Space | StorageError]:
        if before is not None:
            await asyncio.wait({before}, timeout=_PATIENCE)
        self._round, self._next = self._next, None
        return await asyncio.gather(*map(_check, self.members))


async def status(request: Request, pool: Pool, health: Health, observe: Observer) -> Response:
    """Say how the storages are: `OK`, or 503 with which storage is not there and why; in full as JSON."""
    spaces = await health.look()
    faults = [space for space in spaces if isinstance(space, StorageError)]
    code = 503 if faults else 200
    if not faults:
        observe(HealthChecked())
    if request.accepts(b"application/json"):
        numbers = [number for number, replica_set in enumerate(pool.sets) for _ in replica_set.members]
        rows = [_row(*each) for each in zip(numbers, health.members, spaces, strict=True)]
        return as_json(code, {"version": __version__, "status": "failing" if faults else "ok", "storages": rows}, _VARY)
    return text(code, "; ".join(fault.describe() for fault in faults) or "OK", _VARY)


async def _check(member: Bulkhead) -> Space | StorageError:
    try:
        async with asyncio.timeout(_TIMEOUT):
            space = await member.check()
            if member.unwritable:
                return StorageError(member.storage.root, "write", member.switch.reason or "it failed")
            return space
    except TimeoutError:
        return StorageError(member.storage.root, "check", f"no answer within {_TIMEOUT:g} s")
    except StorageError as error:
        return error


def _row(replica_set: int, member: Bulkhead, space: Space | StorageError) -> dict[str, object]:
    fault = space if isinstance(space, StorageError) else None
    room = space if isinstance(space, Space) and space != UNKNOWN_ROOM else None
    return {
        "path": member.storage.root,
        "replica_set": replica_set,
        "available": fault is None,
        "writable": member.storage.writable,
        "total_bytes": room and room.total,
        "free_bytes": room and room.free,
        "last_error": fault.describe() if fault else member.switch.reason,
    }
