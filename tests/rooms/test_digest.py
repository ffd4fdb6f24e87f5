"""The digest: what is one, and its forms."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystor.digest import Digest
from pystor.errors import MalformedDigest

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

MALFORMED = {
    "nothing": "",
    "a digit short": EMPTY[:63],
    "a digit too many": EMPTY + "0",
    "a letter past f": EMPTY[:63] + "g",
    "a newline at the end": EMPTY + "\n",
    "a newline for the last digit": EMPTY[:63] + "\n",
    "a space in front": " " + EMPTY,
    "a space for the first digit": " " + EMPTY[1:],
    "Arabic digits": "\u0663" * 64,
    "one fullwidth digit": EMPTY[:63] + "\uff15",
    "a superscript": EMPTY[:63] + "\u00b2",
    "a sign": "+" + EMPTY[1:],
    "a base": "0x" + EMPTY[2:],
    "an underscore": EMPTY[:31] + "_" + EMPTY[32:],
    "a NUL": EMPTY[:63] + "\0",
    "a way up": "../" * 21 + "a",
    "another algorithm": hashlib.sha1(b"").hexdigest(),
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_sha256_is_refused_and_named(text: str) -> None:
    with pytest.raises(MalformedDigest) as refused:
        Digest.parse(text)

    assert refused.value.text == text
    assert str(refused.value) == f"Given hash '{text}' isn't SHA256"


@given(st.text(max_size=70))
def test_whatever_is_parsed_is_64_hexadecimal_digits_in_lower_case(text: str) -> None:
    try:
        found = Digest.parse(text)
    except MalformedDigest:
        return
    assert found.hex == text.lower()
    assert set(found.hex) <= set("0123456789abcdef")


@given(st.binary(max_size=100))
def test_either_case_names_the_same_blob(content: bytes) -> None:
    digest = Digest.of(content)

    assert digest.hex == hashlib.sha256(content).hexdigest()
    assert Digest.parse(digest.hex.upper()) == digest
    assert hash(Digest.parse(digest.hex.upper())) == hash(digest)
    assert digest != Digest.of(content + b"1")


def test_a_digest_is_equal_to_digests_only() -> None:
    digest = Digest.parse(EMPTY)

    assert digest != EMPTY
    assert {digest: 1}[Digest.of(b"")] == 1
    assert repr(digest) == f"Digest({EMPTY})"


def test_the_path_is_that_of_the_original() -> None:
    assert Digest.parse(EMPTY).path == f"E3/B0/C4/{EMPTY.upper()}.dat"


def test_the_key_is_that_of_the_bucket() -> None:
    assert Digest.parse(EMPTY.upper()).key == f"e3/b0/c4/{EMPTY}"


def test_the_base64_is_that_of_the_32_bytes() -> None:
    assert Digest.parse(EMPTY).base64 == "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    assert base64.b64decode(Digest.parse(EMPTY).base64) == hashlib.sha256(b"").digest()
