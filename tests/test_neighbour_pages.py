"""The pages about the neighbours: their examples load, and the tests and metrics that they name exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
DOCS: Final = ROOT / "docs"
PAGES: Final = ("s3", "memcached", "statsite", "rabbitmq", "logs", "metrics")
CONFIGURED: Final = tuple(name for name in PAGES if name != "metrics")  # Prometheus is told of Stor, not Stor of it


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text()


def examples() -> list[tuple[str, str]]:
    return [(page, text) for page in PAGES for text in re.findall(r"```json\n(.*?)```", text_of(page), re.DOTALL)]


@pytest.mark.parametrize(("page", "example"), examples(), ids=lambda text: text.partition("\n")[0])
def test_the_examples_of_a_page_are_accepted(tmp_path: Path, page: str, example: str) -> None:
    for name in set(re.findall(r"/mnt/data\d", example)):
        (tmp_path / name.removeprefix("/")).mkdir(parents=True)
    file = tmp_path / "stor.json"
    file.write_text(example.replace("/mnt/", f"{tmp_path}/mnt/"))
    command = [sys.executable, "-m", "pystor", "check-config", "--config", str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{page}: {done.stderr}"
    about = re.findall(r"^stor: warning: (\w+)", done.stderr, re.MULTILINE)
    assert set(about) <= {"storage_pairs", "basic_auth"}  # directories on one device, and readers without writers


@pytest.mark.parametrize("page", CONFIGURED)
def test_each_page_has_an_example_and_says_what_it_must(page: str) -> None:
    assert page in {name for name, _ in examples()}
    headings = re.findall(r"^## (.*)$", text_of(page), re.MULTILINE)
    assert any(re.fullmatch("When (it|an output) is away", heading) for heading in headings)
    assert {"What `stor doctor` says", "In the metrics"} <= set(headings)


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_that_a_page_names_exist(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", text_of(page)))
    assert named
    assert named - _tests() == set()


def _tests() -> set[str]:
    trees = [ast.parse(path.read_text()) for path in ROOT.glob("tests/neighbours/test_*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_the_metrics_that_a_page_names_exist(page: str) -> None:
    known = set(re.findall(r"^\| `(stor_\w+)`", text_of("metrics"), re.MULTILINE))
    assert set(re.findall(r"\bstor_[a-z_]+[a-z]\b", text_of(page))) - known == set()


@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_every_anchor_leads_to_a_heading(document: Path) -> None:
    links = re.findall(r"\]\(([\w-]*(?:\.md)?)#([\w-]+)\)", document.read_text())
    for target, anchor in links:
        page = (DOCS / target if target else document).read_text()
        assert anchor in {_anchor(heading) for heading in re.findall(r"^#+ (.*)$", page, re.MULTILINE)}, anchor


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
