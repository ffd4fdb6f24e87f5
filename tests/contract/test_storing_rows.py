"""A1 and B1, POST and PUT: every row, and the order of the checks, which clients were written against."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from tests.contract.disk import fresh, place, place_on, replica, sha
from tests.contract.house import House
from tests.contract.wire import Answer
from tests.support.server import Server

EMPTY: Final = hashlib.sha256().hexdigest()
LIMIT: Final = 1 << 20

Spelling: TypeAlias = Callable[[str], str]

UPLOADS: Final = pytest.mark.parametrize("method", ["POST", "PUT"])
SPELLINGS: Final = pytest.mark.parametrize("spelling", [str.lower, str.upper], ids=["lower-case", "upper-case"])


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server that takes blobs of one MiB and no larger."""
    with Server(tmp_path_factory.mktemp("limited"), config={"max_blob_size": LIMIT}) as server:
        yield House(server)


def paths_of(answer: Answer) -> list[Path]:
    assert answer.headers["content-type"].split(";")[0] == "application/json"
    paths = json.loads(answer.body)
    assert isinstance(paths, list)
    return [Path(path) for path in paths]


# Stored


@UPLOADS
@SPELLINGS
def test_an_upload_is_answered_201_with_one_path_a_storage_of_one_pair(
    stor: House, method: str, spelling: Spelling
) -> None:
    content = fresh()
    answer = stor.store(content, name=spelling(sha(content)), method=method)

    assert answer.status == 201
    assert paths_of(answer) in [[replica(storage, sha(content)) for storage in pair] for pair in stor.pairs]


@UPLOADS
def test_the_paths_of_the_answer_hold_the_bytes(stor: House, method: str) -> None:
    content = fresh(300_000)
    paths = paths_of(stor.store(content, method=method))

    assert [path.read_bytes() for path in paths] == [content] * 2


def test_an_upload_adds_its_replicas_and_nothing_else(stor: House) -> None:
    content = fresh()
    with stor.only_adds(content):
        assert stor.store(content).status == 201


def test_a_replica_can_be_read_by_others_as_the_original_left_it(stor: House) -> None:
    modes = {path.stat().st_mode & 0o777 for path in paths_of(stor.store(fresh()))}

    assert modes == {0o644}


@UPLOADS
def test_what_was_stored_is_served(stor: House, method: str) -> None:
    content = fresh(70_000)
    assert stor.store(content, method=method).status == 201

    assert stor.get(content).body == content


@pytest.mark.parametrize("size", [0, 1, 2, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20, (1 << 20) + 1, 5_000_000])
def test_a_blob_of_any_size_comes_back_as_it_was(stor: House, size: int) -> None:
    content = fresh(size)
    assert stor.store(content).status in {200, 201}

    assert stor.get(content).body == content


def test_a_query_of_an_upload_is_ignored(stor: House) -> None:
    content = fresh()

    assert stor.ask("POST", f"/{sha(content)}?name=x&y=/a/b", stor.login, content).status == 201
    assert stor.get(content).body == content


def test_the_empty_blob_is_stored_and_served_like_any_other(limited: House) -> None:
    first, second = limited.store(b""), limited.store(b"")

    assert (first.status, second.status) == (201, 200)
    assert paths_of(first) == paths_of(second)
    assert [path.read_bytes() for path in paths_of(first)] == [b"", b""]
    assert limited.get(b"").status == 200


def test_the_scheme_of_the_credentials_may_have_any_case(stor: House) -> None:
    content = fresh()
    lower = {"Authorization": "basic " + stor.login["Authorization"].split()[1]}

    assert stor.ask("POST", f"/{sha(content)}", lower, content).status == 201


# Malformed


@UPLOADS
@pytest.mark.parametrize(
    "name",
    ["xyz", sha(b"x")[:63], sha(b"x") + "0", "g" + sha(b"x")[1:], sha(b"x") + ".dat", "_" + sha(b"x")[1:]],
)
@pytest.mark.parametrize("known", [True, False], ids=["with-password", "without-password"])
def test_a_malformed_digest_is_412_before_the_password_is_asked_for(
    stor: House, method: str, name: str, known: bool
) -> None:
    with stor.nothing_left_behind():
        answer = stor.ask(method, f"/{name}", stor.login if known else {}, b"content")

    assert (answer.status, answer.body) == (412, f"Given hash '{name}' isn't sha256".encode())


@pytest.mark.parametrize("target", ["/%2e%2ex", f"/{sha(b'x')[:63]}%00", f"/{sha(b'x')}%0a", "/" + "%D9%A3" * 64])
def test_an_encoded_name_that_is_no_digest_is_412(stor: House, target: str) -> None:
    with stor.nothing_left_behind():
        answer = stor.ask("POST", target, stor.login, b"x")

    assert answer.status == 412
    assert len(answer.body.splitlines()) == 1, answer.body


@UPLOADS
@pytest.mark.parametrize("target", ["/a/b", f"/{sha(b'x')}/x", f"/x/{sha(b'x')}"])
def test_an_upload_to_two_segments_is_404(stor: House, method: str, target: str) -> None:
    with stor.nothing_left_behind():
        assert stor.ask(method, target, stor.login, b"x").status == 404


# Credentials


def basic(pair: bytes) -> str:
    return "Basic " + base64.b64encode(pair).decode()


CREDENTIALS: Final = {
    "none": None,
    "an empty field": "",
    "the scheme alone": "Basic",
    "a wrong password": basic(b"writer:wrong"),
    "a wrong user": basic(b"reader:writer_pass"),
    "the password without its end": basic(b"writer:writer_pas"),
    "the password and more": basic(b"writer:writer_pass2"),
    "the user in upper case": basic(b"WRITER:writer_pass"),
    "an empty password": basic(b"writer:"),
    "nothing at all, coded": basic(b""),
    "no colon": basic(b"writer_pass"),
    "no base64": "Basic ?!?!",
    "base64 cut short": basic(b"writer:writer_pass")[:-3],
    "not coded": "Basic writer:writer_pass",
    "another scheme": "Bearer " + basic(b"writer:writer_pass").split()[1],
    "bytes that are no text": basic(b"writer:\xff\xfe\x00"),
    "a password of another script": basic("writer:пароль".encode()),
    "a field that is no ASCII": "Basic \xe9\xfc\xff",
}


@UPLOADS
@pytest.mark.parametrize("credentials", CREDENTIALS.values(), ids=CREDENTIALS.keys())
def test_without_the_right_credentials_an_upload_is_401(stor: House, method: str, credentials: str | None) -> None:
    content = fresh()
    fields = {} if credentials is None else {"Authorization": credentials}
    with stor.nothing_left_behind():
        answer = stor.ask(method, f"/{sha(content)}", fields, content)

    assert (answer.status, answer.body) == (401, b"Authentication required!")
    assert answer.headers["www-authenticate"].startswith("Basic ")


def test_the_password_is_asked_for_before_a_duplicate_is_told(stor: House) -> None:
    content = fresh()
    stor.store(content)

    assert stor.ask("POST", f"/{sha(content)}", {}, content).status == 401


def test_the_password_is_asked_for_before_the_body_is_hashed(stor: House) -> None:
    assert stor.ask("POST", f"/{sha(fresh())}", {}, b"another").status == 401


def test_the_password_is_asked_for_before_the_size_is_looked_at(limited: House) -> None:
    with limited.wire() as wire:
        wire.send(limited.head_of_upload(sha(fresh()), LIMIT + 1, login=False))
        assert wire.answer().status == 401


def test_a_malformed_digest_is_told_before_the_size_is_looked_at(limited: House) -> None:
    with limited.wire() as wire:
        wire.send(limited.head_of_upload("xyz", LIMIT + 1))
        assert wire.answer().status == 412


# Duplicates


@UPLOADS
def test_a_duplicate_is_200_with_the_paths_of_its_copies(stor: House, method: str) -> None:
    content = fresh()
    first = stor.store(content, method=method)
    with stor.nothing_left_behind():
        second = stor.store(content, method=method)

    assert (first.status, second.status) == (201, 200)
    assert paths_of(second) == paths_of(first)


@SPELLINGS
def test_a_duplicate_is_one_in_either_case(stor: House, spelling: Spelling) -> None:
    content = fresh()
    stor.store(content)

    assert stor.store(content, name=spelling(sha(content))).status == 200


def test_a_duplicate_is_told_before_the_body_is_hashed(stor: House) -> None:
    content = fresh()
    stor.store(content)
    with stor.nothing_left_behind():
        answer = stor.store(b"something else", name=sha(content))

    assert answer.status == 200
    assert stor.get(content).body == content


def test_a_duplicate_placed_by_the_original_is_one(stor: House) -> None:
    content = fresh()
    placed = place_on(stor.pairs[1], content)

    answer = stor.store(content)
    assert (answer.status, paths_of(answer)) == (200, placed)


def test_a_duplicate_in_both_pairs_is_told_with_all_of_its_copies(stor: House) -> None:
    content = fresh()
    placed = [path for pair in stor.pairs for path in place_on(pair, content)]

    answer = stor.store(content)
    assert (answer.status, sorted(paths_of(answer))) == (200, sorted(placed))


def test_a_duplicate_is_told_before_its_declared_size_is_looked_at(limited: House) -> None:
    content = fresh(LIMIT + 1)
    placed = place_on(limited.pairs[0], content)

    answer = limited.store(content)
    assert (answer.status, paths_of(answer)) == (200, placed)


def test_a_duplicate_does_not_touch_its_replicas(stor: House) -> None:
    content = fresh()
    placed = place_on(stor.pairs[0], content)
    before = [(path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in placed]
    stor.store(content)

    assert [(path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in placed] == before


# The body


@UPLOADS
@SPELLINGS
def test_a_body_of_another_digest_is_412_and_leaves_nothing_behind(
    stor: House, method: str, spelling: Spelling
) -> None:
    given, body = spelling(sha(fresh())), fresh(200_000)
    with stor.nothing_left_behind():
        answer = stor.store(body, name=given, method=method)

    assert (answer.status, answer.body) == (
        412,
        f"Content sha256 {sha(body)} doesn't match given sha256 {given}".encode(),
    )
    assert stor.ask("GET", f"/{given}").status == 404


def test_an_empty_body_under_another_name_is_412(stor: House) -> None:
    given = sha(fresh())
    with stor.nothing_left_behind():
        answer = stor.store(b"", name=given)

    assert (answer.status, answer.body) == (
        412,
        f"Content sha256 {EMPTY} doesn't match given sha256 {given}".encode(),
    )


# Size


@UPLOADS
def test_a_declared_size_over_the_limit_is_413_before_the_body_is_read(limited: House, method: str) -> None:
    with limited.nothing_left_behind(), limited.wire() as wire:
        wire.send(limited.head_of_upload(sha(fresh()), LIMIT + 1, method=method))
        answer = wire.answer()

    assert answer.status == 413
    assert answer.headers["content-type"].startswith("text/plain")
    assert len(answer.body.splitlines()) == 1


def test_a_real_size_over_the_limit_is_413_and_leaves_nothing_behind(limited: House) -> None:
    with limited.nothing_left_behind():
        assert limited.store_chunked(fresh(LIMIT + 1)).status == 413


def test_a_blob_of_exactly_the_limit_is_stored(limited: House) -> None:
    declared, in_chunks = fresh(LIMIT), fresh(LIMIT)

    assert limited.store(declared).status == 201
    assert limited.store_chunked(in_chunks).status == 201


# Without a name


def test_an_upload_without_a_name_is_given_its_digest(stor: House) -> None:
    content = fresh()
    first = stor.ask("POST", "/", stor.login, content)
    second = stor.ask("POST", "/", stor.login, content)

    assert (first.status, second.status) == (201, 200)
    assert first.headers["location"].lower() == second.headers["location"].lower() == f"/{sha(content)}"
    assert paths_of(first) == paths_of(second) == stor.replicas(content)
    assert stor.ask("GET", first.headers["location"]).body == content


def test_an_upload_without_a_name_may_come_in_chunks(stor: House) -> None:
    content = fresh(500_000)
    assert stor.store_chunked(content, name="").status == 201

    assert stor.get(content).body == content


def test_an_upload_without_a_name_adds_its_replicas_and_nothing_else(stor: House) -> None:
    content = fresh()
    with stor.only_adds(content):
        stor.ask("POST", "/", stor.login, content)
    with stor.nothing_left_behind():
        stor.ask("POST", "/", stor.login, content)


def test_an_upload_without_a_name_and_without_credentials_is_401(stor: House) -> None:
    with stor.nothing_left_behind():
        answer = stor.ask("POST", "/", {}, fresh())

    assert (answer.status, answer.body) == (401, b"Authentication required!")
    assert answer.headers["www-authenticate"].startswith("Basic ")


def test_an_upload_without_a_name_over_the_limit_is_413(limited: House) -> None:
    with limited.nothing_left_behind(), limited.wire() as wire:
        wire.send(limited.head_of_upload("", LIMIT + 1))
        assert wire.answer().status == 413
    with limited.nothing_left_behind():
        assert limited.store_chunked(fresh(LIMIT + 1), name="").status == 413


def test_an_upload_without_a_name_finds_the_blob_of_the_original(stor: House) -> None:
    content = fresh()
    placed = place_on(stor.pairs[0], content)

    answer = stor.ask("POST", "/", stor.login, content)
    assert (answer.status, paths_of(answer)) == (200, placed)


def test_an_upload_without_a_name_makes_a_blob_whole_that_lacks_a_replica(stor: House) -> None:
    content = fresh()
    place(stor.pairs[0][1], content)

    answer = stor.ask("POST", "/", stor.login, content)
    assert (answer.status, len(stor.replicas(content))) == (200, 2)
