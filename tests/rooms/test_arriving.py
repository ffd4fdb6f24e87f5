"""A body on its way in: taken at once when it is here, waited for when it is not, and never asked for too early."""

from __future__ import annotations

import asyncio

import pytest

from pystor.errors import IncompleteBody, StalledBody
from pystor.http import arriving
from pystor.http.arriving import Arriving, Message
from tests.rooms.tools import run


class Client:
    """Gives what was sent, as ASGI tells of it; waits when there is nothing."""

    def __init__(self, *messages: Message) -> None:
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.asked = 0
        for message in messages:
            self.sent.put_nowait(message)

    async def receive(self) -> Message:
        self.asked += 1
        return await self.sent.get()


def piece(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def all_of(body: Arriving) -> bytes:
    return b"".join([piece async for piece in body.pieces()])


def test_a_body_that_is_here_is_given_at_once_and_again_in_pieces() -> None:
    async def scenario() -> None:
        body = Arriving(Client(piece(b"here")).receive, 5, asked=True)
        assert body.at_once() == b"here"
        assert body.received == 4
        assert await all_of(body) == b"here"
        assert body.received == 4

    run(scenario())


def test_an_empty_body_that_is_here_is_one() -> None:
    async def scenario() -> None:
        assert Arriving(Client(piece(b"")).receive, 5, asked=True).at_once() == b""

    run(scenario())


def test_a_body_that_is_not_here_is_not_waited_for_and_nothing_of_it_is_lost() -> None:
    async def scenario() -> None:
        client = Client()
        body = Arriving(client.receive, 5, asked=True)
        assert body.at_once() is None
        for message in (piece(b"la", more=True), piece(b"ter")):
            client.sent.put_nowait(message)
        assert await all_of(body) == b"later"
        assert body.received == 5

    run(scenario())


def test_the_beginning_of_a_body_is_no_body_and_is_not_lost() -> None:
    async def scenario() -> None:
        client = Client(piece(b"be", more=True))
        body = Arriving(client.receive, 5, asked=True)
        assert body.at_once() is None
        client.sent.put_nowait(piece(b"gin"))
        assert await all_of(body) == b"begin"

    run(scenario())


def test_a_client_that_waits_to_be_asked_is_not_asked_before_a_piece_is_wanted() -> None:
    async def scenario() -> None:
        client = Client(piece(b"here"))
        body = Arriving(client.receive, 5, asked=False)
        assert body.at_once() is None
        assert client.asked == 0
        assert await all_of(body) == b"here"

    run(scenario())


def test_a_client_that_is_gone_has_sent_no_body() -> None:
    async def scenario() -> None:
        body = Arriving(Client({"type": "http.disconnect"}).receive, 5, asked=True)
        assert body.at_once() is None
        with pytest.raises(IncompleteBody):
            await all_of(body)

    run(scenario())


@pytest.mark.parametrize(("punctual", "waited"), [(60.0, 1), (0.0, 2)])  # a timer comes when it is due, or never
def test_a_body_that_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch, punctual: float, waited: int) -> None:
    monkeypatch.setattr(arriving, "PUNCTUAL", punctual)

    async def scenario() -> None:
        client = Client(piece(b"be", more=True))
        body = Arriving(client.receive, 0.02, asked=True)
        body.at_once()
        with pytest.raises(StalledBody, match=r"Nothing came for 0\.02 s"):
            await all_of(body)
        assert client.asked == 1 + waited

    run(scenario())
