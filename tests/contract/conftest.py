"""Servers for the contract: one shared by all who leave it as it is, and others for those who break their disks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from tests.contract.house import House
from tests.support.server import Server, ServerFactory

HouseFactory: TypeAlias = Callable[..., House]


@pytest.fixture(scope="session")
def stor(server: Server) -> House:
    """The shared server: two pairs of two storages, two workers. Use fresh blobs, and leave its storages healthy."""
    return House(server)


@pytest.fixture
def make_stor(make_server: ServerFactory) -> HouseFactory:
    """Start a server of your own: `make_stor(pairs=..., workers=..., config={...})`."""

    def make(**options: Any) -> House:
        return House(make_server(**options))

    return make
