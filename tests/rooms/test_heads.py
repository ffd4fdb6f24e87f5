"""Heads that were parsed before: which are remembered, and how many."""

from __future__ import annotations

import pytest

from pystor.http.heads import Heads, Sent

TARGET = b"/" + b"a" * 64


def request(fields: bytes, *, method: bytes = b"GET", body: bytes = b"") -> bytes:
    return method + b" " + TARGET + b" HTTP/1.1\r\n" + fields + b"\r\n" + body


def finds(heads: Heads, fields: bytes, *, sending: bool) -> bool:
    found = heads.find_sent(request(fields, method=b"PUT")) if sending else heads.find(request(fields))
    return found is not None


def learn(heads: Heads, fields: bytes, *, sending: bool) -> None:
    method, size = (b"PUT", 0) if sending else (b"GET", None)
    name, _, value = fields.rstrip(b"\r\n").partition(b": ")
    heads.learn(request(fields, method=method), (method, TARGET, [(name, value)]), size)


@pytest.mark.parametrize("sending", [False, True])
def test_a_long_head_is_not_kept(sending: bool) -> None:
    heads = Heads()
    for size, kept in ((500, True), (5000, False)):
        fields = b"x: " + b"y" * size + b"\r\n"
        learn(heads, fields, sending=sending)
        assert finds(heads, fields, sending=sending) is kept
        assert len(heads._known) + len(heads._sending) == 1


@pytest.mark.parametrize("sending", [False, True])
def test_the_oldest_of_many_heads_goes(sending: bool) -> None:
    heads = Heads()
    names = [b"x: %d\r\n" % number for number in range(300)]
    for name in names:
        learn(heads, name, sending=sending)
    assert [finds(heads, name, sending=sending) for name in names] == [False] * 44 + [True] * 256


def test_what_is_sent_is_told_with_its_fields_and_its_body() -> None:
    heads = Heads()
    fields = b"content-length: 3\r\nx: 1\r\nx: 2\r\n"
    parsed = [(b"content-length", b"3"), (b"x", b"1"), (b"x", b"2")]
    heads.learn(request(fields, method=b"POST", body=b"abc"), (b"POST", TARGET, parsed), 3)
    found = heads.find_sent(request(fields, method=b"PUT", body=b"\r\n\r"))
    assert found == Sent(b"PUT", TARGET, {b"content-length": b"3", b"x": b"1, 2"}, b"\r\n\r")
    assert heads.find_sent(request(fields, method=b"PATCH", body=b"abc")) is None
    assert heads.find(request(fields, body=b"abc")) is None


@pytest.mark.parametrize("sending", [False, True])
@pytest.mark.parametrize(
    "parsed",
    [
        [],
        [(b"x", b"1"), (b"authorization", b"Basic eA==")],
        [(b"x", b"2")],
        [(b"y", b"1")],
        [(b"x", b"1"), (b"x", b"1")],
    ],
)
def test_no_head_is_remembered_by_the_fields_of_another(sending: bool, parsed: list[tuple[bytes, bytes]]) -> None:
    heads, fields = Heads(), b"X:\t1 \r\n"
    method, size = (b"PUT", 0) if sending else (b"GET", None)
    heads.learn(request(fields, method=method), (method, TARGET, parsed), size)
    assert not finds(heads, fields, sending=sending)
    heads.learn(request(fields, method=method), (method, TARGET, [(b"x", b"1")]), size)
    assert finds(heads, fields, sending=sending)


@pytest.mark.parametrize("sending", [False, True])
def test_what_stands_before_a_request_makes_no_longer_name_a_shorter_one(sending: bool) -> None:
    """An empty line before a request is allowed (RFC 9112, 2.2); counted from there, a target ends too early."""
    heads, fields = Heads(), b"x: 1\r\n"
    method, size = (b"PUT", 0) if sending else (b"GET", None)
    heads.learn(b"\r\n" + request(fields, method=method), (method, TARGET, [(b"x", b"1")]), size)
    longer = request(fields, method=method).replace(TARGET, TARGET + b"aa")
    assert (heads.find(longer), heads.find_sent(longer)) == (None, None)
