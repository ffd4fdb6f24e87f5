"""The servers that most tests of the protocol share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pystor import outbox
from pystor.http import protocol
from pystor.http.heads import Heads
from tests.protocol.site import MIB, Site


@pytest.fixture(autouse=True)
def knowing_no_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_heads", Heads())


@pytest.fixture(scope="module", params=["one by one", "together"], autouse=True)
def sending(request: pytest.FixtureRequest) -> Iterator[str]:
    """How small answers are sent: each as it comes, or those of a turn of the event loop in one system call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "_LOOKS", 1 << 60 if request.param == "one by one" else 0)
        yield request.param


@pytest.fixture(scope="module")
def site(sending: str) -> Iterator[Site]:  # noqa: ARG001  before the server starts
    """A server with limits that are never met."""
    with Site() as running:
        yield running


@pytest.fixture(scope="module")
def brisk(sending: str) -> Iterator[Site]:  # noqa: ARG001  before the server starts
    """A server with little patience."""
    with Site(
        header_timeout=0.4, keep_alive_timeout=1.2, max_header_bytes=4096, drain_bytes=4 * MIB, drain_timeout=0.6
    ) as running:
        yield running
