"""Whose a client is: one process's and one loop's, until it is closed; elsewhere it says so, and hangs nobody."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pystor.client import AsyncClient, Client
from tests.client.conftest import QUICK, lay, sha
from tests.client.test_library import LARGE, noise
from tests.neighbours.servers.proxy import Proxy
from tests.support.processes import eventually
from tests.support.server import Server

VERBS: dict[str, Callable[[Any], Any]] = {
    "get": lambda client: client.get(sha(b"")),
    "head": lambda client: client.head(sha(b"")),
    "put": lambda client: client.put(b""),
    "status": lambda client: client.status(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_client_that_is_closed_says_so(server: Server, verb: str) -> None:
    with Client(server.url) as client:
        client.status()
    with pytest.raises(ValueError, match="closed"):
        VERBS[verb](client)
    client.close()


@pytest.mark.parametrize("verb", VERBS)
def test_so_does_one_for_a_loop(server: Server, verb: str) -> None:
    async def run() -> None:
        async with AsyncClient(server.url) as client:
            await client.status()
        with pytest.raises(ValueError, match="closed"):
            await VERBS[verb](client)
        await client.close()

    asyncio.run(run())


def test_a_stream_that_outlives_its_client_ends_without_a_word(server: Server) -> None:
    (name,) = lay(server, noise(LARGE))
    with Client(server.url) as client:
        closed, gone, asked = client.stream(name), client.stream(name), client.stream(name)
        assert all(next(each) for each in (closed, gone, asked))
    closed.close()  # type: ignore[attr-defined]  # a generator
    del gone
    gc.collect()
    with pytest.raises(ValueError, match="closed"):
        next(asked)


def test_whoever_waits_when_a_client_is_closed_is_told(proxy: Proxy) -> None:
    proxy.hang, told = True, list[str]()
    client = Client(proxy.endpoint, retry=QUICK)

    def wait() -> None:
        try:
            client.get(sha(b""))
        except ValueError as error:
            told.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: proxy.connections > 0)
    client.close()
    thread.join(5)
    assert len(told) == 1
    assert "closed" in told[0]


@pytest.mark.parametrize("verb", VERBS)
def test_another_loop_is_told_to_make_a_client_of_its_own(server: Server, verb: str) -> None:
    client = AsyncClient(server.url)
    with asyncio.Runner() as first:
        first.run(client.status())
        with asyncio.Runner() as second, pytest.raises(RuntimeError, match="another event loop"):
            second.run(VERBS[verb](client))
        with asyncio.Runner() as second, pytest.raises(RuntimeError, match="another event loop"):
            second.run(client.close())
        first.run(client.close())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # later Pythons warn of what is tested here
def test_a_process_that_was_forked_is_told_to_make_a_client_of_its_own(server: Server) -> None:
    with Client(server.url) as client:
        client.status()
        stream = client.stream(lay(server, noise(LARGE))[0])
        next(stream)
        if (child := os.fork()) == 0:
            signal.alarm(10)
            try:
                stream.close()  # type: ignore[attr-defined]  # a generator
                client.status()
            except RuntimeError as error:
                client.close()
                os._exit(0 if "another process" in str(error) else 1)
            os._exit(2)
        _, status = os.waitpid(child, 0)
        assert status == 0
        assert client.status()[0].ok
