"""Errors and their statuses; answers of one line."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystor import errors
from pystor.errors import ConfigError, MalformedDigest, StorageError, StorageFull, StorError
from pystor.http import statuses
from pystor.http.messages import Request, as_json, gather_fields, text

EXAMPLES: dict[type[StorError], StorError] = {
    errors.MalformedDigest: errors.MalformedDigest("x\r\nSet-Cookie: a\u2028b\udcff\x00"),
    errors.NotFound: errors.NotFound("ab" * 32),
    errors.Unavailable: errors.Unavailable("Try again"),
    errors.Unauthorized: errors.Unauthorized(),
    errors.NoSpace: errors.NoSpace("No room"),
    errors.TooLarge: errors.TooLarge(5),
    errors.DigestMismatch: errors.DigestMismatch("aa" * 32, "bb" * 32),
    errors.IncompleteBody: errors.IncompleteBody("Short"),
    errors.StalledBody: errors.StalledBody("Late"),
    errors.StorageError: errors.StorageError("/mnt/secret", "fsync", "EIO"),
    errors.StorageFull: errors.StorageFull("/mnt/secret", "write", "ENOSPC"),
}


def tree(root: type[StorError]) -> Iterator[type[StorError]]:
    for kind in root.__subclasses__():
        if kind.__module__.startswith("pystor") and not kind.__module__.startswith("pystor.client"):
            yield kind
            yield from tree(kind)


def test_no_error_is_missing_in_the_table() -> None:
    assert set(tree(StorError)) == set(statuses.STATUSES) == set(EXAMPLES)


@pytest.mark.parametrize("error", EXAMPLES.values(), ids=lambda error: type(error).__name__)
def test_every_error_is_answered_with_one_line(error: StorError) -> None:
    response = statuses.response_for(error)
    headers = dict(response.headers)

    assert isinstance(response.body, bytes)
    line = response.body.decode("utf-8")
    assert line
    assert line.isprintable()
    assert headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert headers[b"content-length"] == b"%d" % len(response.body)
    assert 400 <= response.status < 600
    assert "secret" not in line


def test_what_is_unknown_for_now_says_when_to_ask_again() -> None:
    for error in (errors.Unavailable(""), errors.StorageError("", "", "")):
        response = statuses.response_for(error)

        assert (response.status, dict(response.headers)[b"retry-after"]) == (503, b"5")


def test_an_error_that_is_not_in_the_table_is_answered_as_the_one_above_it() -> None:
    class Quota(StorageFull):
        pass

    Quota.__module__ = "elsewhere"
    assert statuses.response_for(Quota("", "", "")).status == 507


def test_an_upload_under_a_malformed_name_is_told_in_the_words_of_the_original() -> None:
    response = statuses.malformed_upload(MalformedDigest("x"))

    assert (response.status, response.body) == (412, b"Given hash 'x' isn't sha256")


def test_other_methods_are_told_which_ones_there_are() -> None:
    refused, options = statuses.method_not_allowed(b"GET, HEAD"), statuses.options(b"GET, HEAD")

    assert (refused.status, dict(refused.headers)[b"allow"]) == (405, b"GET, HEAD")
    assert (options.status, options.headers, options.body) == (204, ((b"allow", b"GET, HEAD"),), b"")


def test_an_internal_error_tells_nothing_of_the_inside() -> None:
    response = statuses.internal_error()

    assert response.status == 500
    assert response.body == b"Something went wrong inside; the log of the service says what"


@given(st.text())
def test_any_text_is_answered_as_one_printable_line(line: str) -> None:
    body = text(400, line).body

    assert isinstance(body, bytes)
    assert body.decode("utf-8").isprintable()


# Errors


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_lack_of_room_is_told_from_other_failures(code: int) -> None:
    assert type(StorageError.from_os("/a", "write", OSError(code, "x"))) is StorageFull


def test_another_failure_is_described_for_operators() -> None:
    error = StorageError.from_os("/mnt/a", "fsync", OSError(errno.EIO, "Input/output error"))

    assert type(error) is StorageError
    assert error.describe() == "/mnt/a: fsync: Input/output error"
    assert "/mnt/a" not in str(error)
    assert StorageError.from_os("/a", "b", OSError("odd")).reason == "odd"


def test_a_configuration_error_holds_a_line_for_each_problem() -> None:
    assert ConfigError(["a", "b"]).problems == ("a", "b")
    assert str(ConfigError(["a", "b"])) == "a\nb"


# Messages


def test_repeated_fields_are_joined() -> None:
    assert gather_fields([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]) == {b"a": b"1, 3", b"b": b"2"}


def test_json_is_answered_with_its_length() -> None:
    response = as_json(201, ["/a"], (b"location", b"/x"))

    assert response.body == b'["/a"]'
    assert dict(response.headers) == {
        b"content-type": b"application/json",
        b"content-length": b"6",
        b"location": b"/x",
    }


def test_a_request_knows_its_declared_length_and_what_is_accepted() -> None:
    request = Request("POST", "/", {b"content-length": b"5", b"accept": b"Text/HTML, */*"}, None)  # type: ignore[arg-type]

    assert request.declared == 5
    assert request.accepts(b"text/html")
    assert not request.accepts(b"application/json")
