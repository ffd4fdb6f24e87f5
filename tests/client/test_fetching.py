"""What a download is called, and whether it is there already."""

from __future__ import annotations

from pathlib import Path

import pytest

from pystor.client import fetching
from pystor.client.fetching import Names, Naming
from pystor.digest import Digest

THERE, COMING, LATE = (Digest.of(content) for content in (b"there", b"coming", b"late"))


@pytest.mark.parametrize("most", [0, 1, 2, 1000])
@pytest.mark.parametrize("naming", [("", False), (".dat", True), ("/blob", False)])
def test_what_is_in_the_directory_is_there_however_much_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, naming: tuple[str, bool]
) -> None:
    monkeypatch.setattr(fetching, "_MOST_LISTED", most)
    calls = Naming(str(tmp_path), *naming)

    def make(digest: Digest) -> None:
        path = Path(calls.path(digest))
        path.parent.mkdir(exist_ok=True)
        path.touch()

    make(THERE)
    names = Names(calls)
    assert names.has(THERE)
    assert not names.has(COMING)
    for digest in (COMING, LATE):
        make(digest)
        names.add(digest)
        assert names.has(digest)


def test_what_has_gone_since_is_not_there(tmp_path: Path) -> None:
    calls = Naming(str(tmp_path))
    Path(calls.path(THERE)).touch()
    names = Names(calls)
    names.add(COMING)
    Path(calls.path(THERE)).unlink()
    assert not names.has(THERE)
    assert not names.has(COMING)


def test_a_link_that_leads_nowhere_is_there(tmp_path: Path) -> None:
    calls = Naming(str(tmp_path))
    Path(calls.path(THERE)).symlink_to("nowhere")
    assert Names(calls).has(THERE)


def test_of_a_directory_that_cannot_be_listed_each_name_is_asked_for(tmp_path: Path) -> None:
    names = Names(Naming(str(tmp_path / "later")))
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / THERE.hex).touch()
    assert names.has(THERE)
    assert not names.has(COMING)
