"""What is written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from pystor.events import RequestEnded

_LONGEST_PATH: Final = 200


class Entry(NamedTuple):
    """Something to write down. An entry of the access log has its request, and is put into words by the writer."""

    time: float
    level: int
    source: str
    text: str = ""
    fields: Mapping[str, object] = {}
    trace: str = ""
    request: RequestEnded | None = None

    def message(self) -> str:
        """Tell it in a line."""
        request = self.request
        return self.text if request is None else f"{request.method} {_path(request)} {request.status}"

    def details(self) -> dict[str, object]:
        """Tell what belongs to it, by name."""
        request = self.request
        if request is None:
            return dict(self.fields)
        details = {
            **self.fields,
            "client": request.client,
            "method": request.method,
            "path": _path(request),
            "status": request.status,
            "digest": request.digest and request.digest.hex,
            "received": request.received,
            "sent": request.sent,
            "ms": round(request.seconds * 1000, 3),
            "storage": request.storage,
            "tier": request.tier,
        }
        return {name: value for name, value in details.items() if value is not None}


def abridged(request: RequestEnded) -> RequestEnded:
    """Keep no more of its path than is told: thousands of them wait when an output hangs."""
    return request if len(request.path) <= _LONGEST_PATH else request._replace(path=request.path[:_LONGEST_PATH])


def _path(request: RequestEnded) -> str:
    """Tell the path alone: a query, or a whole URL, may have a password in it."""
    path = request.path.partition("?")[0]
    return path[:_LONGEST_PATH] if path.startswith("/") else "-"
