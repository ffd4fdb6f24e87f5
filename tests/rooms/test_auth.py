"""Who may store."""

from __future__ import annotations

import base64
import hmac

import pytest

from pystor.errors import Unauthorized
from pystor.http.auth import Guard


def basic(credentials: str | bytes, scheme: bytes = b"Basic ") -> bytes:
    return scheme + base64.b64encode(credentials if isinstance(credentials, bytes) else credentials.encode())


ADMITTED = {
    "the credentials": basic("writer:secret"),
    "the scheme in lower case": basic("writer:secret", b"basic "),
    "several spaces": basic("writer:secret", b" BASIC   ") + b" ",
}

REFUSED = {
    "nothing": b"",
    "the scheme only": b"Basic",
    "an empty token": b"Basic ",
    "another password": basic("writer:other"),
    "another user": basic("other:secret"),
    "a longer password": basic("writer:secret1"),
    "a shorter password": basic("writer:secre"),
    "no password": basic("writer"),
    "another case": basic("Writer:Secret"),
    "another scheme": basic("writer:secret", b"Bearer "),
    "no scheme": base64.b64encode(b"writer:secret"),
    "no base64": b"Basic writer:secret",
    "base64 with rubbish in it": b"Basic !" + base64.b64encode(b"writer:secret"),
    "base64 cut short": basic("writer:secret")[:-1],
    "bytes past ASCII": b"Basic \xff\xfe",
    "credentials past ASCII": basic(b"writer:\xff"),
    "two fields": basic("writer:secret") + b", " + basic("writer:secret"),
}


@pytest.mark.parametrize("value", ADMITTED.values(), ids=ADMITTED)
def test_the_writer_is_admitted(value: bytes) -> None:
    Guard("writer:secret").admit({b"authorization": value})


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_anybody_else_is_refused(value: bytes) -> None:
    with pytest.raises(Unauthorized, match=r"^Authentication required!$"):
        Guard("writer:secret").admit({b"authorization": value})


def test_credentials_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, expected: bytes) -> bool:
        compared.append((given, expected))
        return given == expected

    monkeypatch.setattr(hmac, "compare_digest", compare)
    Guard("writer:secret").admit({b"authorization": basic("writer:secret")})
    with pytest.raises(Unauthorized):
        Guard("writer:secret").admit({b"authorization": basic("writer:other")})
    assert compared == [(given, b"writer:secret") for given in (b"writer:secret", b"writer:other")]


def test_no_field_is_no_writer() -> None:
    with pytest.raises(Unauthorized):
        Guard("writer:secret").admit({})


@pytest.mark.parametrize("value", [b"", basic(""), basic(":"), basic("None")])
def test_without_credentials_nobody_is_admitted(value: bytes) -> None:
    with pytest.raises(Unauthorized):
        Guard(None).admit({b"authorization": value})


def test_credentials_may_hold_colons_and_any_letter() -> None:
    Guard("w\u00fcrter:a:b:\u2603").admit({b"authorization": basic("w\u00fcrter:a:b:\u2603")})
