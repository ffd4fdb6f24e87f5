"""How long the client goes on with servers that are in trouble: as often as it was told, and when they ask it to."""

from __future__ import annotations

import pytest

from pystor.client import BadContent, Client, Retry
from tests.client.conftest import sha
from tests.client.scripted import Scripted, good
from tests.client.test_library import noise


@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_bad_content_ends_the_tries_however_much_of_it_came(size: int) -> None:
    content = noise(size)
    with (
        Scripted(lambda *_: good(content)) as bad,
        Client(bad.url, retry=Retry(3, 0.01)) as client,
        pytest.raises(BadContent),
    ):
        client.get(sha(b"another"))
    assert len(bad.times) == 3
