"""What a download is called, and whether it is there already."""

from __future__ import annotations

from pathlib import Path

import pytest

from pystor.client import downloads
from pystor.client.bulk import Event, Skipped
from pystor.client.downloads import Downloads, Naming, Paths
from pystor.digest import Digest

THERE, COMING, LATE = (Digest.of(content) for content in (b"there", b"coming", b"late"))


def has(there: Paths, calls: Naming, digest: Digest) -> bool:
    return there.has(calls.path(digest))


@pytest.mark.parametrize("most", [0, 1, 2, 1000])
@pytest.mark.parametrize("naming", [("", False), (".dat", True), ("/blob", False)])
def test_what_is_in_the_directory_is_there_however_much_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, naming: tuple[str, bool]
) -> None:
    monkeypatch.setattr(downloads, "_MOST_LISTED", most)
    calls = Naming(str(tmp_path), *naming)

    def make(digest: Digest) -> None:
        path = Path(calls.path(digest))
        path.parent.mkdir(exist_ok=True)
        path.touch()

    make(THERE)
    there = Paths(calls)
    assert has(there, calls, THERE)
    assert not has(there, calls, COMING)
    for digest in (COMING, LATE):
        make(digest)
        there.add(calls.path(digest))
        assert has(there, calls, digest)


def test_what_has_gone_since_is_not_there(tmp_path: Path) -> None:
    calls = Naming(str(tmp_path))
    Path(calls.path(THERE)).touch()
    there = Paths(calls)
    there.add(calls.path(COMING))
    Path(calls.path(THERE)).unlink()
    assert not has(there, calls, THERE)
    assert not has(there, calls, COMING)


def test_a_link_that_leads_nowhere_is_there(tmp_path: Path) -> None:
    calls = Naming(str(tmp_path))
    Path(calls.path(THERE)).symlink_to("nowhere")
    assert has(Paths(calls), calls, THERE)


def test_of_a_directory_that_cannot_be_listed_each_name_is_asked_for(tmp_path: Path) -> None:
    calls = Naming(str(tmp_path / "later"))
    there = Paths(calls)
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / THERE.hex).touch()
    assert has(there, calls, THERE)
    assert not has(there, calls, COMING)


@pytest.mark.parametrize(
    ("content", "left", "wanted"), [(b"there", b"", True), (b"there", b"th", False), (b"", b"", False)]
)
def test_an_empty_file_that_should_not_be_empty_is_downloaded_again(
    tmp_path: Path, content: bytes, left: bytes, wanted: bool
) -> None:
    """A power cut leaves such, and whoever resumes wants the blob."""
    events, calls, digest = list[Event](), Naming(str(tmp_path)), Digest.of(content)
    Path(calls.path(digest)).write_bytes(left)
    all_of_it = Downloads(calls, events.append)
    assert (all_of_it.begin(iter([digest])) is not None) == wanted
    assert [type(event) for event in events] == ([] if wanted else [Skipped])
    if wanted:
        all_of_it.save(digest, content, None)
        assert Path(calls.path(digest)).read_bytes() == content
