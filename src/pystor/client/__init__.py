"""The client: Stor's verbs over HTTP, for programs (`Client`, `AsyncClient`) and for people (`commands`).

What is named here is loaded when it is first used, so that the commands of the server do not wait for an HTTP library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pystor.client.aio import AsyncClient
    from pystor.client.blocking import Client
    from pystor.client.errors import (
        BadContent,
        ClientError,
        NoSpace,
        NotFound,
        Refused,
        TooLarge,
        Unauthorized,
        Unavailable,
    )
    from pystor.client.retry import Retry
    from pystor.client.s3 import Bucket
    from pystor.client.values import Blob, Status, Stored
    from pystor.digest import Digest
    from pystor.errors import MalformedDigest

_HOMES: Final = {
    "AsyncClient": "pystor.client.aio",
    "Client": "pystor.client.blocking",
    "BadContent": "pystor.client.errors",
    "ClientError": "pystor.client.errors",
    "NoSpace": "pystor.client.errors",
    "NotFound": "pystor.client.errors",
    "Refused": "pystor.client.errors",
    "TooLarge": "pystor.client.errors",
    "Unauthorized": "pystor.client.errors",
    "Unavailable": "pystor.client.errors",
    "Retry": "pystor.client.retry",
    "Bucket": "pystor.client.s3",
    "Blob": "pystor.client.values",
    "Status": "pystor.client.values",
    "Stored": "pystor.client.values",
    "Digest": "pystor.digest",
    "MalformedDigest": "pystor.errors",
}

__all__ = [
    "AsyncClient",
    "BadContent",
    "Blob",
    "Bucket",
    "Client",
    "ClientError",
    "Digest",
    "MalformedDigest",
    "NoSpace",
    "NotFound",
    "Refused",
    "Retry",
    "Status",
    "Stored",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
]


if not TYPE_CHECKING:  # whoever checks types would take every name for one of these

    def __getattr__(name: str) -> Any:
        """Load what is asked for by its name here."""
        if name not in _HOMES:
            raise AttributeError(f"module 'pystor.client' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)
