"""Servers that are reached by HTTPS, as behind a proxy that speaks TLS: who is not trusted is sent nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pystor.client import Client, Refused, Retry
from tests.client.conftest import sha
from tests.client.scripted import Asked, Scripted, answer
from tests.client.test_commands import Shell, files
from tests.client.test_library import left_in, noise
from tests.neighbours.servers.certificates import certify
from tests.support.server import Server

SMALL, LARGE = 4_000, 2_000_000
DELAY = 20.0  # seconds, of which a pause takes a half at least


@pytest.fixture
def shell(server: Server, tmp_path: Path) -> Shell:
    return Shell(server, tmp_path)


@pytest.fixture
def certified(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate, which nobody trusts but who is told of it, and its key."""
    return certify(tmp_path)


@pytest.fixture
def secure(server: Server, certified: tuple[Path, Path]) -> Iterator[Scripted]:
    """What hands on requests to a server, and speaks HTTPS."""

    def through(asked: Asked) -> bytes:
        told = server.request(asked.method, asked.path, asked.body or None, server.authorization())
        return answer(told.status, told.body)

    with Scripted(through, certified=certified) as secure:
        yield secure


def test_blobs_go_up_and_come_down(shell: Shell, secure: Scripted, certified: tuple[Path, Path]) -> None:
    contents = [noise(SMALL), noise(LARGE)]
    paths = files(shell.directory / "files", contents)
    way = {"STOR_URL": secure.url, "SSL_CERT_FILE": str(certified[0])}
    stored = shell.run("stor", "put", "files", **way)
    names = sorted(line.split()[0] for line in stored.stdout.splitlines())
    assert (stored.returncode, names) == (0, sorted(map(sha, contents))), stored.stderr
    got = shell.run("stor", "get", *names, "out", **way)
    assert (got.returncode, left_in(shell.out)) == (0, names), got.stderr
    assert [(shell.out / sha(path.read_bytes())).read_bytes() for path in paths] == contents


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_a_server_that_is_not_trusted_is_sent_nothing_and_not_tried_again(secure: Scripted, size: int) -> None:
    content, began = noise(size), time.monotonic()
    with Client(secure.url, user="writer", password="secret", retry=Retry(attempts=3, delay=DELAY)) as client:
        with pytest.raises(Refused, match="certificate") as refused:
            client.get(sha(content))
        with pytest.raises(Refused, match="certificate"):
            client.put(content)
    assert str(refused.value).startswith(f"{secure.url}: ")
    assert secure.asked == []
    assert time.monotonic() - began < DELAY / 2


def test_that_it_is_not_trusted_is_told_in_a_line(shell: Shell, secure: Scripted) -> None:
    name = sha(noise(SMALL))
    done = shell.run("stor", "get", name, "out", STOR_URL=secure.url)
    assert (done.returncode, left_in(shell.out)) == (1, [])
    line, totals = done.stderr.splitlines()
    assert line.startswith(f"stor: {name}: {secure.url}: ")
    assert "certificate" in line
    assert totals == "0 downloaded, 1 failed"
