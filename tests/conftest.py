"""Fixtures, and the rule that continuous integration accepts no silent skip."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings

from tests.support.mounts import Mounts
from tests.support.server import Server, ServerFactory

# A shared machine with coverage on is slow at times; that is no finding about the code under test.
settings.register_profile("stor", deadline=None)
settings.load_profile("stor")

# Tests send it to what they start, which would ignore it, too, if a shell had started us in the background.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two pairs of two storages and two workers, shared by all tests that do not break it."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[ServerFactory]:
    """Start servers of your own: `make_server(pairs=..., workers=..., config={...})`. They are stopped, and checked."""
    started: list[Server] = []

    def make(**options: Any) -> Server:
        directory = options.pop("directory", tmp_path / f"server{len(started)}")
        started.append(Server(directory, **options))
        return started[-1].start()

    yield make
    _stop_all(started)


def _stop_all(servers: list[Server]) -> None:
    """Stop every one, and only then complain about the first that did not stop well."""
    failures: list[AssertionError] = []
    for server in servers:
        try:
            server.stop()
        except AssertionError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    """Filesystems of your own: `mounts.tmpfs(4 << 20, inodes=64)`, `mounts.ext4(32 << 20)`. Needs root."""
    mine = Mounts(tmp_path)
    yield mine
    mine.close()


# Order

_LONG: Final = frozenset({"test_server.py"})
"""Files that wait for long: whoever began with one of them last would be alone with it at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, since the tests of a file are not shared among those that run beside each other."""
    items.sort(key=lambda item: item.path.name not in _LONG)


# Reports


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the servers printed beside a failure, and let no skip pass in continuous integration."""
    report = yield
    if report.failed:
        report.sections += [(f"server at {server.url}", server.output) for server in Server.running]
    if item.get_closest_marker("may_skip") is None and not hasattr(report, "wasxfail"):
        _let_no_skip_pass(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let no module that skips itself pass in continuous integration."""
    report = yield
    _let_no_skip_pass(report)
    return report


def _let_no_skip_pass(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("CI"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: skipped, which continuous integration does not accept: {reason}"
