"""One logic, three ways: the fast one, the short one and ASGI say the same."""

from __future__ import annotations

import asyncio
import base64
import gc
import itertools
import json
import os
import random
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pystor.blob import Space
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError
from pystor.events import (
    AnsweredAtOnce,
    BlobServed,
    Event,
    HealthChecked,
    HintAsked,
    LeftoversSwept,
    LookedUp,
    RequestEnded,
    RequestFailed,
    StorageFailed,
    nobody,
)
from pystor.http.app import App
from pystor.http.auth import Guard
from pystor.http.blobs import Blobs
from pystor.http.heads import Sent
from pystor.http.messages import DIRECT, Field, Response, conditions_of, gather_fields
from pystor.http.wire import Limits
from pystor.pool import Pool
from pystor.tiers import Tier, Tiers
from pystor.verification import Verifier
from tests.rooms.tools import (
    adopted,
    beside,
    blobs,
    break_reads,
    descriptors,
    eventually,
    place,
    pool_of,
    run,
    tiers_of,
    where,
)

KIB = 1 << 10
CONTENTS = {size: random.Random(size).randbytes(size) for size in (0, 1, 4 * KIB, 64 * KIB, 64 * KIB + 1)}
LARGE = random.Random(1).randbytes(300 * KIB)
MODIFIED = 1_234_567_890
DATE = b"Fri, 13 Feb 2009 23:31:30 GMT"
WRITER: Field = (b"authorization", b"Basic " + base64.b64encode(b"writer:secret"))


class Answer(NamedTuple):
    status: int
    headers: list[Field]
    body: bytes


def app_over(*storages: Directory, verifier: Verifier | None = None, events: list[Event] | None = None) -> App:
    return app_of(pool_of(storages, verifier=verifier, events=events))


def app_of(pool: Pool, max_blob_size: int = 1 << 20) -> App:
    guard = Guard("writer:secret")
    blobs_ = Blobs(tiers_of(pool), pool, guard, max_blob_size=max_blob_size, observe=pool.observe)
    return App(pool, blobs_, observe=pool.observe, limits=Limits(), upload_idle_timeout=0.2, services=[pool])


async def ask(
    app: App,
    method: str,
    path: str,
    headers: tuple[Field, ...] = (),
    *pieces: bytes | None,
    send: Callable[[Any], Awaitable[Any]] | None = None,
    extensions: dict[str, Any] | None = None,
) -> Answer:
    """Ask by ASGI. A piece that is None is a client that goes; after the last one it stays, and says nothing."""
    told: list[Any] = []
    given = iter(pieces or (b"",))
    left = len(pieces or (b"",))

    async def receive() -> dict[str, object]:
        nonlocal left
        for piece in given:
            left -= 1
            if piece is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": piece, "more_body": left > 0}
        await asyncio.sleep(20)
        return {"type": "http.disconnect"}

    async def tell(message: Any) -> None:
        told.append(message)
        await asyncio.sleep(0)

    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    if extensions is not None:
        scope["extensions"] = extensions
    await app(scope, receive, send or tell)
    if send is not None:
        return Answer(0, [], b"")
    body = b"".join(message["body"] for message in told[1:])
    complete = len(told) > 1 and not told[-1].get("more_body", False)
    return Answer(told[0]["status"] if complete else -told[0]["status"], sorted(told[0]["headers"]), body)


class Living:
    """An application between its start and its end, by the lifespan protocol."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._told: asyncio.Queue[Any] = asyncio.Queue()

    async def __aenter__(self) -> App:
        self._task = asyncio.create_task(self._app({"type": "lifespan"}, self._events.get, self._told.put))
        await self._change("startup")
        return self._app

    async def __aexit__(self, *_: object) -> None:
        await self._change("shutdown")
        await self._task

    async def _change(self, what: str) -> None:
        await self._events.put({"type": f"lifespan.{what}"})
        assert await self._told.get() == {"type": f"lifespan.{what}.complete"}


def at_once(app: App, method: str, path: str, headers: tuple[Field, ...] = ()) -> Answer | None:
    """Ask by the fast path; whoever asks again, which may be a shorter way, is answered the same."""
    answers: list[Answer] = []
    for _ in range(3):
        response = app.answer(method.encode(), path.encode(), conditions_of(headers), "127.0.0.1")
        if response is None:
            break
        assert isinstance(response.body, bytes | memoryview)
        answers.append(Answer(response.status, sorted(fields_of(response)), bytes(response.body)))
    assert answers == answers[:1] * len(answers)
    return answers[0] if answers else None


def fields_of(response: Response) -> Sequence[Field]:
    """The header fields as they are written."""
    if response.encoded is None:
        return response.headers
    *lines, end = response.encoded.split(b"\r\n")
    assert end == b""
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]


@pytest.fixture
def pair(tmp_path: Path) -> list[Directory]:
    return [adopted(tmp_path / name) for name in "ab"]


def fill(*storages: Directory) -> None:
    for storage, content in itertools.product(storages, (*CONTENTS.values(), LARGE)):
        path = place(storage, content)
        os.utime(path, (MODIFIED, MODIFIED))


# The fast path and ASGI

RANGES = (
    b"",
    b"bytes=0-0",
    b"bytes=1-",
    b"bytes=-1",
    b"bytes=100-199",
    b"bytes=99999999-",
    b"bytes=0-1,3-4",
    b"lines=1-2",
)
CONDITIONS: tuple[tuple[Field, ...], ...] = (
    (),
    ((b"if-none-match", b"*"),),
    ((b"if-none-match", b'"other"'),),
    ((b"if-modified-since", DATE),),
    ((b"if-modified-since", b"Thu, 01 Jan 1970 00:00:00 GMT"),),
    ((b"if-none-match", b'"other"'), (b"if-modified-since", DATE)),
    ((b"if-range", DATE),),
    ((b"if-range", b'"other"'),),
    ((b"if-none-match", b'"a"'), (b"if-none-match", b'"b"')),
)


def requests(size: int) -> list[tuple[str, tuple[Field, ...]]]:
    etag: tuple[Field, ...] = ((b"if-none-match", b'W/"%s"' % Digest.of(CONTENTS[size]).hex.encode()),)
    return [
        (method, (*condition, *([(b"range", value)] if value else [])))
        for method, value, condition in itertools.product(("GET", "HEAD"), RANGES, (*CONDITIONS, etag))
    ]


@pytest.mark.parametrize("size", CONTENTS)
@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_both_ways_say_the_same_of_a_blob(pair: list[Directory], size: int, *, known: bool) -> None:
    fill(*pair)
    path = "/" + Digest.of(CONTENTS[size]).hex
    quick = 0

    async def scenario() -> None:
        nonlocal quick
        async with Living(app_over(*pair)) as app:
            for method, headers in requests(size):
                fast_app = app if known else app_over(*pair)
                for storage in pair:
                    storage.attach()
                if known:
                    for _ in pair:
                        await ask(app, "GET", path)
                fast = at_once(fast_app, method, path, headers)
                slow = await ask(app, method, path, headers)
                assert fast is None or fast == slow, (method, headers)
                quick += fast is not None
                if size <= 64 * KIB:
                    assert fast is not None, (method, headers)

    run(scenario())
    assert quick or size > 64 * KIB


@pytest.mark.parametrize(
    ("method", "fields", "quick"),
    [
        ("HEAD", (), True),
        ("GET", ((b"range", b"bytes=100000-100063"),), True),
        ("GET", ((b"range", b"bytes=-65536"),), True),
        ("GET", ((b"range", b"bytes=400000-"),), True),
        ("GET", ((b"range", b"bytes=0-65536"),), False),
        ("GET", (), False),
    ],
)
def test_a_small_part_of_a_large_blob_that_is_known_is_answered_at_once(
    pair: list[Directory],
    method: str,
    fields: tuple[Field, ...],
    monkeypatch: pytest.MonkeyPatch,
    *,
    quick: bool,
) -> None:
    for storage in pair:
        place(storage, LARGE)
    path = "/" + Digest.of(LARGE).hex

    async def scenario() -> None:
        async with Living(app_over(pair[0])) as app:
            assert at_once(app, method, path, fields) is None
            await ask(app, "GET", path)
            fast = at_once(app, method, path, fields)
            assert (fast is not None) is quick
            assert fast in (None, await ask(app, method, path, fields))
            if quick:
                monkeypatch.setattr(app._blobs.fast_path, "_answer_anew", lambda *_: pytest.fail("was looked for anew"))
                assert at_once(app, method, path, fields) == fast

    run(scenario())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((), {(200, DATE), (200, DATE.replace(b":30 ", b":31 "))}),
        (((b"if-modified-since", DATE),), {(304, DATE), (200, DATE.replace(b":30 ", b":31 "))}),
    ],
    ids=["answered", "compared"],
)
def test_replicas_with_different_times_are_each_answered_and_compared_with_their_own_and_from_memory(
    pair: list[Directory],
    fields: tuple[Field, ...],
    expected: set[tuple[int, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = CONTENTS[4 * KIB]
    path = f"/{Digest.of(content).hex}".encode()
    for number, storage in enumerate(pair):
        os.utime(place(storage, content), (MODIFIED + number, MODIFIED + number))

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            for _ in range(100):
                app.answer(b"GET", path, {}, "")
            monkeypatch.setattr(app._blobs.fast_path, "_answer_anew", lambda *_: pytest.fail("was looked for anew"))
            found = set()
            for _ in range(100):
                response = app.answer(b"GET", path, conditions_of(fields), "")
                assert response is not None
                assert response.body == (content if response.status == 200 else b"")
                found.add((response.status, dict(fields_of(response))[b"last-modified"]))
            assert found == expected

    run(scenario())


@pytest.mark.parametrize(("fields", "part"), [((), slice(None)), (((b"range", b"bytes=7-99"),), slice(7, 100))])
def test_what_was_hashed_is_what_is_answered_though_the_file_changes_at_once(
    pair: list[Directory], fields: tuple[Field, ...], part: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = CONTENTS[4 * KIB]
    file = place(pair[0], content)
    vouch = Verifier.vouch

    def vouch_and_change(*arguments: Any) -> bool:
        good = vouch(*arguments)
        file.write_bytes(bytes(len(content)))
        return good

    monkeypatch.setattr(Verifier, "vouch", vouch_and_change)

    async def scenario() -> None:
        async with Living(app_over(pair[0])) as app:
            response = app.answer(b"GET", f"/{Digest.of(content).hex}".encode(), conditions_of(fields), "")
            assert response is not None
            assert response.body == content[part]

    run(scenario())


@pytest.mark.parametrize("hot", [False, True])
def test_a_bad_replica_that_the_fast_path_comes_upon_is_noted_for_repair_whichever_the_long_way_takes(
    pair: list[Directory], hot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = CONTENTS[4 * KIB]
    digest = Digest.of(content)
    path = f"/{digest.hex}"
    place(pair[1], content)
    place(pair[0], b"rotten", digest)

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            (replica_set,) = app._pool.sets

            def begin_with(member: int) -> None:
                monkeypatch.setattr(replica_set, "_dice", lambda: member / 2)
                replica_set.advance()

            if hot:
                begin_with(1)
                assert at_once(app, "GET", path) is not None
            begin_with(0)
            assert app.answer(b"GET", path.encode(), {}, "") is None
            begin_with(1)
            assert (await ask(app, "GET", path)).body == content
            await eventually(lambda: [entry.name for entry in beside(pair[0], "repair")] == [digest.hex.upper()])

    run(scenario())


def test_what_could_not_be_read_is_hashed_again_before_it_is_answered_from_memory(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = CONTENTS[4 * KIB]
    place(pair[0], content)
    path = "/" + Digest.of(content).hex

    def read_others(_fd: int, rooms: Sequence[memoryview], *_: int) -> int:
        rooms[0][:] = bytes(len(rooms[0]))
        return len(rooms[0])

    async def scenario() -> None:
        async with Living(app_over(pair[0])) as app:
            assert at_once(app, "GET", path) is not None
            with monkeypatch.context() as patch:
                break_reads(patch, pair[0].root)
                assert (await ask(app, "GET", path)).status != 200
            monkeypatch.setattr(os, "preadv", read_others)  # a disk that has given up the sector since
            assert at_once(app, "GET", path) is None

    run(scenario())


def test_a_blob_that_is_asked_for_once_is_not_remembered(pair: list[Directory]) -> None:
    fill(*pair)
    path = f"/{Digest.of(CONTENTS[1]).hex}".encode()

    async def scenario() -> None:
        async with Living(app_over(pair[0])) as app:
            known = []
            for _ in range(2):
                assert app.answer(b"GET", path, {}, "") is not None
                known.append(len(app._blobs.fast_path._known))
            assert known == [0, 1]

    run(scenario())


def test_a_wide_circle_of_blobs_does_not_push_out_what_is_remembered_in_turn(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pystor.http.fast_path._KNOWN", 10)
    contents = [b"%d" % number for number in range(30)]
    for content in contents:
        place(pair[0], content)

    async def scenario() -> None:
        async with Living(app_over(pair[0])) as app:
            fast_path = app._blobs.fast_path
            for dice in (1.0, 0.0):
                monkeypatch.setattr(fast_path, "_dice", lambda dice=dice: dice)
                for _ in range(3):
                    for content in contents:
                        answer = app.answer(b"GET", f"/{Digest.of(content).hex}".encode(), {}, "")
                        assert answer is not None
                        assert answer.body == content
                assert len(fast_path._known) == 10
                known = {known.digest for known in fast_path._known.values()}
                assert known == {Digest.of(content) for content in (contents[:10] if dice else contents[20:])}

    run(scenario())


def told(events: list[Event]) -> list[Event]:
    """What was told of a request, without how long it took."""
    parts = [part for event in events for part in (event.parts() if isinstance(event, AnsweredAtOnce) else (event,))]
    return [
        part._replace(seconds=0.0) if isinstance(part, HintAsked | LookedUp | RequestEnded | BlobServed) else part
        for part in parts
        if not isinstance(part, LeftoversSwept)
    ]


@pytest.mark.parametrize(
    "fields", [(), ((b"range", b"bytes=1-2"),), ((b"range", b"bytes=9999-"),), ((b"if-none-match", b"*"),)]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("content", [CONTENTS[4 * KIB], b"none"], ids=["a blob", "a miss"])
def test_both_ways_tell_observers_the_same(
    pair: list[Directory], content: bytes, method: str, fields: tuple[Field, ...]
) -> None:
    fill(*pair)
    path, events = "/" + Digest.of(content).hex, list[Event]()

    async def scenario() -> None:
        async with Living(app_over(pair[0], events=events)) as app:
            await ask(app, "GET", path)
            assert at_once(app, "GET", path) is not None  # and so on a shorter way from now on
            events.clear()
            await ask(app, method, path, fields)
            slow = told(events)
            events.clear()
            assert app.answer(method.encode(), path.encode(), conditions_of(fields), "") is not None
            assert told(events) == slow
            assert slow

    run(scenario())


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_both_ways_say_the_same_of_names(pair: list[Directory], method: str) -> None:
    fill(*pair)
    names = {
        "in upper case": Digest.of(CONTENTS[1]).hex.upper(),
        "a miss": Digest.of(b"none").hex,
        "a miss in upper case": Digest.of(b"none").hex.upper(),
        "malformed": "g" * 64,
        "with a quote": "'" * 64,
        "short": "ab",
        "long": "a" * 65,
        "two segments": f"{'a' * 31}/{'b' * 32}",
        "all slashes": "/" * 64,
        "the front page": "",
        "alive": "live",
    }

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            for case, name in names.items():
                slow = await ask(app, method, f"/{name}")
                fast = at_once(app, method, f"/{name}")
                assert fast in (None, slow), case
            for name in (names["in upper case"], names["a miss"]):
                assert at_once(app, method, f"/{name}") is not None

    run(scenario())


# The short way and ASGI


async def take(app: App, method: str, path: str, headers: tuple[Field, ...], body: bytes) -> Answer:
    """Ask by the short way."""
    response = await app.take(Sent(method.encode(), path.encode(), gather_fields(headers), body), "")
    assert isinstance(response.body, bytes)
    return Answer(response.status, sorted(fields_of(response)), response.body)


SENT = random.Random(7).randbytes(4 * KIB)
LENGTH: Field = (b"content-length", b"%d" % len(SENT))
UPLOADS: dict[str, tuple[str, tuple[Field, ...], bytes]] = {
    "new": (Digest.of(SENT).hex, (WRITER, LENGTH), SENT),
    "new, in upper case": (Digest.of(SENT).hex.upper(), (WRITER, LENGTH), SENT),
    "empty": (Digest.of(b"").hex, (WRITER, (b"content-length", b"0")), b""),
    "of no declared length": (Digest.of(b"").hex, (WRITER,), b""),
    "too large": (Digest.of(bytes(KIB << 10 | 1)).hex, (WRITER,), bytes(KIB << 10 | 1)),
    "not what it is called": (Digest.of(b"none").hex.upper(), (WRITER, LENGTH), SENT),
    "called nothing": ("g" * 64, (WRITER, LENGTH), SENT),
    "of a stranger": (Digest.of(SENT).hex, (LENGTH,), SENT),
    "of a liar": (Digest.of(SENT).hex, ((b"authorization", b"Basic d3JpdGVyOmxpZXM="), LENGTH), SENT),
}


@pytest.mark.parametrize("found", ["nothing", "everything", "half", "half, and bad", "no room"])
@pytest.mark.parametrize("what", UPLOADS)
def test_the_short_way_and_asgi_do_and_tell_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, found: str
) -> None:
    name, headers, body = UPLOADS[what]
    if found == "no room":
        monkeypatch.setattr(Directory, "left", lambda *_: 0)

    def try_(way: Callable[..., Awaitable[Answer]], method: str) -> tuple[Answer, list[Event], dict[Path, bytes]]:
        root = tmp_path / f"{way.__name__} {method}"
        root.mkdir()
        monkeypatch.chdir(root)  # what is told of paths is the same, then
        pair, events = [adopted(Path(side)) for side in "ab"], list[Event]()
        for storage in pair if found == "everything" else pair[:1] if found.startswith("half") else ():
            place(storage, b"bad" if found.endswith("bad") else body, Digest.of(body))

        async def scenario() -> Answer:
            async with Living(app_over(*pair, events=events)) as app:
                events.clear()
                return await way(app, method, f"/{name}", headers, body)

        answer = run(scenario())
        return answer, told(events), {path: path.read_bytes() for path in Path().glob("?/??/??/??/*")}

    for method in ("POST", "PUT"):
        short, long = try_(take, method), try_(ask, method)
        assert short == long
        assert len(short[1]) > 2


@pytest.mark.parametrize(
    "target",
    [f"/status?{'a' * 57}", f"/?{'a' * 63}", f"/{'a' * 40}?{'b' * 23}", f"/{'%61' * 21}b", f"/live#{'a' * 59}"],
)
def test_a_query_is_not_taken_for_a_name(pair: list[Directory], target: str) -> None:
    assert len(target) == 65

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            assert at_once(app, "GET", target) is None

    run(scenario())


@pytest.mark.parametrize("target", [b"x" + b"a" * 64, b"*" + b"a" * 64, b"/" + b"\xc3\xa9" * 32, b"", b"/"])
def test_what_is_no_path_of_a_blob_goes_the_long_way(pair: list[Directory], target: bytes) -> None:
    assert app_over(*pair).answer(b"GET", target, {}, "127.0.0.1") is None


@pytest.mark.parametrize("value", RANGES)
def test_both_ways_say_the_same_of_a_blob_with_a_bad_replica(pair: list[Directory], value: bytes) -> None:
    content = CONTENTS[4 * KIB]
    digest = Digest.of(content)
    headers = ((b"range", value),) if value else ()
    place(pair[0], content[:10], digest)
    os.utime(place(pair[1], content), (MODIFIED, MODIFIED))

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            slow = await ask(app, "GET", f"/{digest.hex}", headers)
            for _ in range(4):
                fast = at_once(app, "GET", f"/{digest.hex}", headers)
                assert fast in (None, slow)

    run(scenario())


def test_a_large_blob_that_is_known_has_a_quick_head(pair: list[Directory]) -> None:
    fill(pair[0])
    path = f"/{Digest.of(LARGE).hex}"

    async def scenario() -> None:
        async with Living(app_over(pair[0])) as app:
            assert at_once(app, "HEAD", path) is None
            assert (await ask(app, "GET", path)).body == LARGE
            assert at_once(app, "HEAD", path) == await ask(app, "HEAD", path)
            assert at_once(app, "GET", path) is None

    run(scenario())


def test_a_storage_that_is_not_local_has_no_fast_path(pair: list[Directory]) -> None:
    fill(*pair)

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            for storage in pair:
                storage.local = False
            for name in (Digest.of(CONTENTS[1]).hex, Digest.of(b"none").hex):
                assert at_once(app, "GET", f"/{name}") is None

    run(scenario())


def test_what_is_not_in_the_cache_is_left_to_the_long_way(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(*pair)
    path = f"/{Digest.of(CONTENTS[1]).hex}"

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            monkeypatch.setattr(os, "preadv", lambda *_: 0)
            assert at_once(app, "GET", path) is None
            assert (await ask(app, "GET", path)).body == CONTENTS[1]

    run(scenario())
    assert not descriptors(tmp_path)


# The long way


def test_a_blob_is_answered_in_full(pair: list[Directory], tmp_path: Path) -> None:
    fill(*pair)
    digest = Digest.of(LARGE)

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            got = await ask(app, "GET", f"/{digest.hex.upper()}")
            assert got == Answer(
                200,
                [
                    (b"accept-ranges", b"bytes"),
                    (b"cache-control", b"public, max-age=31536000, immutable"),
                    (b"content-length", b"307200"),
                    (b"content-type", b"application/octet-stream"),
                    (b"etag", b'"%s"' % digest.hex.encode()),
                    (b"last-modified", DATE),
                    (b"repr-digest", b"sha-256=:%s:" % digest.base64.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ],
                LARGE,
            )
            head = await ask(app, "HEAD", f"/{digest.hex}")
            assert (head.status, head.headers, head.body) == (200, got.headers, b"")
            part = await ask(app, "GET", f"/{digest.hex}", ((b"range", b"bytes=70000-199999"),))
            assert (part.status, part.body) == (206, LARGE[70000:200000])
            past = await ask(app, "GET", f"/{digest.hex}", ((b"range", b"bytes=307200-"),))
            assert (past.status, dict(past.headers)[b"content-range"]) == (416, b"bytes */307200")

    run(scenario())
    assert not descriptors(tmp_path)


def test_where_the_server_offers_it_a_known_body_is_sent_directly_and_counted(
    pair: list[Directory], events: list[Event]
) -> None:
    fill(*pair)
    path = f"/{Digest.of(LARGE).hex}"
    here, there = socket.socketpair()
    told = bytearray()
    direct = 0

    async def send(message: Any) -> int | None:
        nonlocal direct
        if message["type"] != DIRECT:
            told.extend(message.get("body", b""))
            return None
        sent: int = message["source"](here.fileno())
        told.extend(there.recv(sent, socket.MSG_WAITALL) if sent else b"")
        direct += sent
        return sent

    async def scenario() -> None:
        async with Living(app_over(*pair, events=events)) as app:
            for _ in range(20):  # both replicas are known by then
                await ask(app, "GET", path)
            events.clear()
            await ask(app, "GET", path, send=send, extensions={DIRECT: {}})

    here.setblocking(False)
    with here, there:
        run(scenario())
    assert bytes(told) == LARGE
    assert 0 < direct <= len(LARGE)
    assert [event.sent for event in events if isinstance(event, RequestEnded)] == [len(LARGE)]
    assert [event.size for event in events if isinstance(event, BlobServed)] == [len(LARGE)]


def test_a_body_that_cannot_go_on_is_cut_and_does_not_look_complete(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, events: list[Event]
) -> None:
    fill(*pair)
    content, verifier = LARGE, Verifier()

    async def scenario() -> None:
        async with Living(app_over(*pair, verifier=verifier, events=events)) as app:
            path = f"/{Digest.of(content).hex}"
            for _ in pair:
                await ask(app, "GET", path)
            for storage in pair:
                break_reads(monkeypatch, storage.root, from_offset=128 * KIB)
            events.clear()
            cut = await ask(app, "GET", path)
            assert (cut.status, cut.body) == (-200, content[: 128 * KIB])
            assert [event.sent for event in events if isinstance(event, RequestEnded)] == [128 * KIB]
            assert not [event for event in events if isinstance(event, BlobServed)]

    run(scenario())
    assert not descriptors(tmp_path)


def test_nothing_is_read_for_a_client_that_is_gone(pair: list[Directory], tmp_path: Path) -> None:
    fill(*pair)

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            answer = await ask(app, "GET", f"/{Digest.of(LARGE).hex}", (), b"", None)
            assert answer.status == -200
            assert len(answer.body) < len(LARGE)

    run(scenario())
    assert not descriptors(tmp_path)


def test_what_is_answered_without_bytes_of_the_blob_leaves_nothing_open(pair: list[Directory], tmp_path: Path) -> None:
    fill(*pair)
    path, etag = f"/{Digest.of(LARGE).hex}", b'"%b"' % Digest.of(LARGE).hex.encode()
    asked: tuple[tuple[str, tuple[Field, ...], int], ...] = (
        ("GET", (), 307),
        ("GET", ((b"range", b"bytes=0-99"),), 307),
        ("GET", ((b"range", b"bytes=%d-" % len(LARGE)),), 416),
        ("GET", ((b"if-none-match", etag),), 304),
        ("HEAD", (), 200),
    )

    async def scenario() -> None:
        pool = pool_of(pair, events=None)
        tiers = Tiers([Tier("archive", pool)], nobody)
        signed = Blobs(tiers, pool, Guard(None), max_blob_size=1, observe=nobody, redirect=lambda one: f"s3:{one.hex}")
        async with Living(
            App(pool, signed, observe=nobody, limits=Limits(), upload_idle_timeout=1, services=[pool])
        ) as app:
            for method, fields, status in asked:
                assert (await ask(app, method, path, fields)).status == status

    run(scenario())
    assert not descriptors(tmp_path)


def test_an_answer_that_cannot_even_begin_gives_everything_back(pair: list[Directory], tmp_path: Path) -> None:
    fill(*pair)

    async def broken(_: object) -> None:
        raise ConnectionResetError

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            with pytest.raises(ConnectionResetError):
                await ask(app, "GET", f"/{Digest.of(LARGE).hex}", send=broken)

    run(scenario())
    gc.collect()  # the exception keeps what it came through
    assert not descriptors(tmp_path)


def test_what_goes_wrong_while_an_answer_is_made_gives_everything_back(
    pair: list[Directory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(*pair)
    monkeypatch.setattr("pystor.http.representation._make", lambda *_: 1 / 0)

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            answer = await ask(app, "GET", f"/{Digest.of(LARGE).hex}")
            assert (answer.status, answer.body[:27]) == (500, b"Something went wrong inside")

    run(scenario())
    assert not descriptors(tmp_path)


def test_an_original_file_older_than_time_is_served(pair: list[Directory]) -> None:
    for storage in pair:
        os.utime(place(storage, b"old"), (-86400, -86400))

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            slow = await ask(app, "GET", f"/{Digest.of(b'old').hex}")
            assert dict(slow.headers)[b"last-modified"] == b"Wed, 31 Dec 1969 00:00:00 GMT"
            assert at_once(app, "GET", f"/{Digest.of(b'old').hex}") == slow

    run(scenario())


# Storing


def test_an_upload_is_stored_and_answered(pair: list[Directory]) -> None:
    content = b"a blob"
    digest = Digest.of(content)
    paths = [str(where(storage, digest)) for storage in pair]

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            made = await ask(app, "PUT", f"/{digest.hex.upper()}", (WRITER,), b"a ", b"", b"blob")
            assert (made.status, json.loads(made.body)) == (201, paths)
            again = await ask(app, "POST", f"/{digest.hex}", (WRITER,), b"anything")
            assert (again.status, json.loads(again.body)) == (200, paths)
            named = await ask(app, "POST", "/", (WRITER, (b"content-length", b"5")), b"other")
            assert (named.status, dict(named.headers)[b"location"]) == (201, f"/{Digest.of(b'other').hex}".encode())

    run(scenario())
    assert sorted(blobs(pair[0])) == [content, b"other"]


REFUSED: dict[str, tuple[str, tuple[Field, ...], tuple[bytes | None, ...], int, str]] = {
    "a malformed name": ("/x", (), (b"a blob",), 412, "Given hash 'x' isn't sha256"),
    "no credentials": ("/SHA", (), (b"a blob",), 401, "Authentication required!"),
    "no credentials for an unnamed one": ("/", (), (b"a blob",), 401, "Authentication required!"),
    "another body": ("/SHA", (WRITER,), (b"rotten",), 412, "Content sha256 REAL doesn't match given sha256 SHA"),
    "declared too large": ("/SHA", (WRITER, (b"content-length", b"1048577")), (None,), 413, ""),
    "too large": ("/SHA", (WRITER,), (bytes(1 << 20), b"x"), 413, ""),
    "shorter than declared": ("/SHA", (WRITER, (b"content-length", b"7")), (b"a blob",), 400, ""),
    "cut": ("/SHA", (WRITER, (b"content-length", b"7")), (b"a blob", None), 400, ""),
    "nothing at this path": ("/SHA/x", (WRITER,), (b"a blob",), 404, ""),
}


@pytest.mark.parametrize(("path", "headers", "pieces", "status", "line"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_stores_nothing(
    pair: list[Directory],
    path: str,
    headers: tuple[Field, ...],
    pieces: tuple[bytes | None, ...],
    status: int,
    line: str,
) -> None:
    name = Digest.of(b"a blob").hex.upper()
    expected = line.replace("SHA", name).replace("REAL", Digest.of(b"rotten").hex)

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            answer = await ask(app, "POST", path.replace("SHA", name), headers, *pieces)
            assert answer.status == status
            assert answer.body.decode() == expected or not line

    run(scenario())
    assert not blobs(pair[0])


@pytest.mark.parametrize("declared", [True, False])
def test_a_small_blob_over_a_small_limit_is_refused_whichever_way_it_takes(
    pair: list[Directory], declared: bool
) -> None:
    content, path = b"a blob", f"/{Digest.of(b'a blob').hex}"
    headers = (WRITER, (b"content-length", b"6")) if declared else (WRITER,)

    async def scenario() -> None:
        async with Living(app_of(pool_of(pair), max_blob_size=5)) as app:
            assert (await ask(app, "POST", path, headers, content)).status == 413
            assert (await take(app, "POST", path, headers, content)).status == 413

    run(scenario())
    assert [blobs(storage) for storage in pair] == [[], []]


def test_an_upload_that_stands_still_is_ended(pair: list[Directory]) -> None:
    async def stalled() -> dict[str, object]:
        await asyncio.sleep(20)
        return {}

    async def scenario() -> None:
        told: list[Any] = []

        async def tell(message: Any) -> None:
            told.append(message)

        async with Living(app_over(*pair)) as app:
            scope = {"type": "http", "method": "POST", "path": "/", "headers": [WRITER]}
            await app(scope, stalled, tell)
        assert told[0]["status"] == 408

    run(scenario())


# Other resources


@pytest.mark.parametrize(
    ("path", "allowed"),
    {
        "/": b"GET, HEAD, POST, OPTIONS",
        "/SHA": b"GET, HEAD, POST, PUT, OPTIONS",
        "/live": b"GET, HEAD, OPTIONS",
    }.items(),
)
def test_every_resource_tells_its_methods(pair: list[Directory], path: str, allowed: bytes) -> None:
    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            target = path.replace("SHA", "a" * 64)
            options, refused = await ask(app, "OPTIONS", target), await ask(app, "DELETE", target)
            assert options == Answer(204, [(b"allow", allowed)], b"")
            assert (refused.status, dict(refused.headers)[b"allow"]) == (405, allowed)

    run(scenario())


def test_a_storage_that_cannot_be_made_whole_by_an_upload_is_told_though_another_set_has_the_blob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    sets = [[adopted(tmp_path / side, pair) for side in pair] for pair in ("ab", "cd")]
    for storage in (sets[0][1], *sets[1]):
        place(storage, SENT)
    failure = StorageError(sets[0][0].root, "write", "Input/output error")

    def fails(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(sets[0][0], "open_for_writing", fails)

    async def scenario() -> None:
        async with Living(app_of(pool_of(*sets, events=events))) as app:
            assert (await ask(app, "POST", f"/{Digest.of(SENT).hex}", (WRITER, LENGTH), SENT)).status == 200

    run(scenario())
    assert StorageFailed(failure, Digest.of(SENT)) in events


def test_the_status_tells_which_storage_is_gone(pair: list[Directory], events: list[Event]) -> None:
    as_json: tuple[Field, ...] = ((b"accept", b"application/json"),)

    async def scenario() -> None:
        async with Living(app_over(*pair, events=events)) as app:
            good, rows = await ask(app, "GET", "/status"), await ask(app, "GET", "/status", as_json)
            assert (good.status, good.body) == (200, b"OK")
            assert [row["available"] for row in json.loads(rows.body)["storages"]] == [True, True]
            assert events.count(HealthChecked()) == 2
            os.rename(pair[1].root, f"{pair[1].root}.away")
            gone, rows = await ask(app, "GET", "/status"), await ask(app, "GET", "/status", as_json)
            assert gone.status == 503
            assert gone.body.decode().startswith(pair[1].root)
            assert [row["available"] for row in json.loads(rows.body)["storages"]] == [True, False]
            assert (await ask(app, "GET", "/live")).status == 200
            assert events.count(HealthChecked()) == 2  # those that were good

    run(scenario())


def test_many_who_ask_for_the_status_at_once_have_each_storage_looked_at_once_or_twice(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    real = pair[0].check

    def counted() -> Space:
        nonlocal looks
        looks += 1
        return real()

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            monkeypatch.setattr(pair[0], "check", counted)
            answers = await asyncio.gather(*(ask(app, "GET", "/status") for _ in range(100)))
            assert {answer.status for answer in answers} == {200}

    run(scenario())
    assert 1 <= looks <= 5


def test_who_asks_for_the_status_while_another_is_told_hears_of_what_has_happened_since(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, go_on = threading.Event(), threading.Event()
    real = pair[0].check

    def held() -> Space:
        looking.set()
        go_on.wait(20)
        return real()

    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            monkeypatch.setattr(pair[0], "check", held)
            first = asyncio.create_task(ask(app, "GET", "/status"))
            await eventually(looking.is_set)
            await asyncio.sleep(0.05)  # until the other storage was looked at
            os.rename(pair[1].root, f"{pair[1].root}.away")
            second = asyncio.create_task(ask(app, "GET", "/status"))
            await asyncio.sleep(0)
            go_on.set()
            assert [(await each).status for each in (first, second)] == [200, 503]

    run(scenario())


def test_the_front_page_is_for_people_and_for_programs(pair: list[Directory]) -> None:
    async def scenario() -> None:
        async with Living(app_over(*pair)) as app:
            line, page = await ask(app, "GET", "/"), await ask(app, "GET", "/", ((b"accept", b"text/html"),))
            assert line.body.startswith(b"This is Stor ")
            assert page.body.startswith(b"<!doctype html>")
            assert (await ask(app, "GET", "/a/b")).status == 404

    run(scenario())


def test_what_nobody_foresaw_is_an_answer_and_no_stack_trace(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    async def scenario() -> None:
        pool = pool_of(pair, events=events)
        async with Living(app_of(pool)) as app:
            monkeypatch.setattr(pool, "find", lambda _: 1 / 0)
            answer = await ask(app, "GET", f"/{'a' * 64}")
            assert (answer.status, b"Traceback" in answer.body) == (500, False)
            assert RequestFailed("get") in events

    run(scenario())
