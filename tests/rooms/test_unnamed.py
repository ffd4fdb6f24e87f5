"""Files without a name: gone with their descriptor, or named at once and whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pystor import posix, unnamed

CONTENT = b"content"
LINK = posix.link


@pytest.fixture(params=["by its descriptor", "by its path"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that let us name a descriptor, and those that do not."""
    if request.param == "by its path":
        monkeypatch.setattr(posix, "link", lambda *_: False)


@pytest.fixture
def file(tmp_path: Path) -> int:
    fd = unnamed.make(str(tmp_path), 0o640)
    assert fd is not None
    os.write(fd, CONTENT)
    return fd


@pytest.mark.parametrize("relative", [False, True])
def test_it_gets_its_name_and_stays(tmp_path: Path, file: int, relative: bool) -> None:
    root = os.open(tmp_path, os.O_RDONLY)
    assert os.listdir(tmp_path) == []
    assert unnamed.link(file, "name", root) if relative else unnamed.link(file, f"{tmp_path}/name")
    os.close(root)
    os.close(file)
    assert (tmp_path / "name").read_bytes() == CONTENT
    assert (tmp_path / "name").stat().st_mode & 0o777 == 0o640


def test_without_a_name_it_vanishes(tmp_path: Path, file: int) -> None:
    os.close(file)
    assert os.listdir(tmp_path) == []


def test_what_has_the_name_already_keeps_it(tmp_path: Path, file: int) -> None:
    (tmp_path / "name").write_bytes(b"another")
    assert not unnamed.link(file, f"{tmp_path}/name")
    os.close(file)
    assert (tmp_path / "name").read_bytes() == b"another"


def test_a_directory_that_is_missing_is_named(tmp_path: Path, file: int) -> None:
    with pytest.raises(FileNotFoundError, match="missing/name"):
        unnamed.link(file, f"{tmp_path}/missing/name")
    os.close(file)


def test_what_is_no_directory_is_told(tmp_path: Path, file: int) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file/name"):
        unnamed.link(file, f"{tmp_path}/file/name")
    os.close(file)


def test_this_machine_lets_us_name_a_descriptor(tmp_path: Path, request: pytest.FixtureRequest, file: int) -> None:
    """Or else the tests here prove less than they say: root may, and from Linux 6.10 everybody."""
    if "by its descriptor" in request.node.name:
        assert posix.link(file, f"{tmp_path}/name")
    os.close(file)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_kernel_that_does_not_let_us_is_told_from_a_directory_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: int, allowed: bool
) -> None:
    """It says the same of both; where it lets us, what is missing costs no second look by the path."""
    monkeypatch.setattr(posix, "_lets_us_link", lambda: allowed)
    if allowed:
        with pytest.raises(FileNotFoundError, match="missing/name"):
            LINK(file, f"{tmp_path}/missing/name")
    else:
        assert not LINK(file, f"{tmp_path}/missing/name")
    os.close(file)


def test_whether_the_kernel_lets_us_is_known_without_a_file(tmp_path: Path, file: int) -> None:
    posix._lets_us_link.cache_clear()
    works = posix._linkat(file, b"", posix.AT_FDCWD, f"{tmp_path}/name".encode(), posix._AT_EMPTY_PATH) == 0
    assert posix._lets_us_link() == works
    os.close(file)
