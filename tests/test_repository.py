"""What holds for the repository as a whole: its layers, its links, its pins, and its scripts."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pystor import __version__

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _domain() -> list[str]:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    sources: list[str] = next(c["source_modules"] for c in contracts if c["name"].startswith("The domain"))
    return sources


def _imports(module: str) -> Iterator[str]:
    path = SOURCES / (module.replace(".", "/") + ".py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("module", _domain())
def test_the_domain_imports_the_standard_library_only(module: str) -> None:
    assert set(_imports(module)) <= {*sys.stdlib_module_names, "pystor"}


def _floors() -> list[set[str]]:
    """The layers of the import contract, from the top: the names of the rooms on each."""
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c.get("containers") == ["pystor"])
    return [set(re.findall(r"\w+", layer)) for layer in layers]


def test_every_module_below_the_handlers_is_counted_to_the_domain() -> None:
    floors = _floors()
    handlers = next(index for index, rooms in enumerate(floors) if "http" in rooms)
    above = {"__init__"}.union(*floors[: handlers + 1])
    modules = {f"pystor.{path.stem}" for path in (SOURCES / "pystor").glob("*.py") if path.stem not in above}
    assert modules == set(_domain())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    targets = [target.partition("#")[0] for target in _LINK.findall(document.read_text())]
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (document.parent / target).exists()] == []


def test_every_document_is_in_the_index() -> None:
    index = _LINK.findall((ROOT / "docs/README.md").read_text())
    assert {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"} <= set(index)


_PROMISED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
_RELIABILITY = ROOT / "docs/reliability.md"


def _promises() -> list[str]:
    """The rows of the tables of faults."""
    rows = [line for line in _RELIABILITY.read_text().splitlines() if line.startswith("| ")]
    return [row for row in rows if not row.startswith("| Fault |")]


def _tests_in(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_promise_of_the_table_of_faults_names_a_test_that_exists() -> None:
    assert [row for row in _promises() if not _PROMISED.search(row)] == []
    named = set(_PROMISED.findall(_RELIABILITY.read_text()))
    assert {test for path, test in named if test not in _tests_in(ROOT / path)} == set()


def test_every_test_of_a_fault_is_in_the_table_of_faults() -> None:
    named = set(_PROMISED.findall(_RELIABILITY.read_text()))
    modules = sorted((ROOT / "tests/faults").glob("test_*.py"))
    tests = {(str(path.relative_to(ROOT)), test) for path in modules for test in _tests_in(path)}
    assert {f"{path}::{test}" for path, test in tests - named if test.startswith("test_")} == set()


def test_the_design_draws_the_floors_as_the_import_contract_has_them() -> None:
    design = (ROOT / "docs/design.md").read_text()
    drawn: dict[int, set[str]] = {}
    for floor, rooms in re.findall(r"^\| (\d+) \| ([^|]*) \|", design, re.MULTILINE):
        drawn.setdefault(int(floor), set()).update(re.findall(r"`(\w+)`", rooms))
    assert drawn == dict(enumerate((rooms for rooms in _floors() if rooms != {"__main__"}), 1))


def test_the_design_names_every_room() -> None:
    design = (ROOT / "docs/design.md").read_text()
    modules = [path.relative_to(SOURCES / "pystor") for path in (SOURCES / "pystor").rglob("*.py")]
    # An adapter that is a package is one room: its files are its own business.
    rooms = {part.removesuffix(".py") for module in modules for part in module.parts[:2] if not part.startswith("__")}
    assert {room for room in rooms if f"`{room}`" not in design} == set()


def _pins() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_constraints_pin_versions_and_name_no_registry() -> None:
    assert [line for line in _pins() if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+", line)] == []


def test_everything_that_is_required_is_pinned() -> None:
    project = PROJECT["project"]
    optional = [line for extra in project["optional-dependencies"].values() for line in extra]
    required = project["dependencies"] + optional + PROJECT["build-system"]["requires"]
    pinned = {_canonical(line.partition("==")[0]) for line in _pins()}
    assert {_canonical(re.split(r"[\[<>=!~ ;]", line)[0]) for line in required} <= pinned


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_changelog_knows_this_version_or_collects_for_the_next() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{__version__}]" in changelog


@pytest.mark.parametrize("script", [".ci/run", "tests/install-packages"])
def test_a_script_can_be_run_and_stops_at_the_first_error(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text()
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


@pytest.mark.parametrize("target", ["help", "serve", "test", "check", "format", "bench", "bench-quick", "clean"])
def test_make_help_lists_every_target(target: str) -> None:
    done = subprocess.run(["make", "-C", str(ROOT), "help"], check=True, capture_output=True, text=True)
    assert target == "help" or f"make {target}" in done.stdout


@pytest.mark.parametrize(
    ("version", "taken"),
    [("(3, 11, 2)", True), ("(3, 14)", True), ("(3, 10, 13)", False), ("not there", False)],
)
def test_make_takes_the_systems_python_if_it_is_new_enough(tmp_path: Path, version: str, taken: bool) -> None:
    python = tmp_path / "python3"
    if version != "not there":
        pretending = f"import sys; sys.version_info, sys.executable = {version}, '{python}'"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretending}\n$2"\n')
        python.chmod(0o755)
    chosen = ("make", "-C", str(ROOT), f"SYSTEM_PYTHON={python}", "--eval=chosen: ; @$(PYTHON) -c 1 && echo $(PYTHON)")
    ours = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS", "MFLAGS")}
    done = subprocess.run([*chosen, "chosen"], check=True, capture_output=True, text=True, env=ours)
    assert (f"{python}\n" in done.stdout) == taken


PYTHON_OF_MAKE = """#!/bin/sh
# Makes an environment whose Python knows where our package was installed, and, as pip, wants to read the constraints
# that it is told of: {ending}.
mkdir -p "$3/bin"
printf '#!/bin/sh\\n[ "$1" = -I ] && echo "%s/src/pystor" || test -f "$PIP_CONSTRAINT"\\n' "$PWD" > "$3/bin/python"
printf '#!/bin/sh\\necho "stor $*"\\n' > "$3/bin/stor"
chmod +x "$3/bin/python" "$3/bin/stor"
{ending}
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A directory with a space in its name, and in it what `make serve` needs."""
    directory = tmp_path / "a clone"
    directory.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, directory)
    return directory


def make_serve(clone: Path, ending: str) -> subprocess.CompletedProcess[str]:
    """Run `make serve` with a Python whose `venv` ends so."""
    python = clone / "python3"
    python.write_text(PYTHON_OF_MAKE.format(ending=ending))
    python.chmod(0o755)
    ours = {name: value for name, value in os.environ.items() if name not in ("VENV", "MAKEFLAGS", "MFLAGS")}
    chosen = ("make", "--no-print-directory", "PYTHON=./python3", "SERVED=.venv/.installed", "ARGS=--port 0", "serve")
    return subprocess.run(chosen, cwd=clone, env=ours, capture_output=True, text=True, timeout=60, check=False)


def test_make_serves_from_a_path_with_a_space(clone: Path) -> None:
    done = make_serve(clone, "exit 0")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "stor serve --port 0"), done.stderr


def test_make_serves_when_what_the_environment_lacked_is_there(clone: Path) -> None:
    assert make_serve(clone, "exit 1").returncode == 2
    done = make_serve(clone, "exit 0")
    assert done.stdout.splitlines()[0] == "./python3 -m venv .venv"
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "stor serve --port 0"), done.stderr


def test_make_makes_the_environment_of_a_clone_that_was_moved_anew_and_keeps_any_other(clone: Path) -> None:
    assert make_serve(clone, "exit 0").returncode == 0
    assert make_serve(clone, "exit 0").stdout == "stor serve --port 0\n"
    left = clone / ".venv/bin/of-the-old-place"
    left.touch()
    done = make_serve(clone.rename(clone.with_name("moved")), "exit 0")
    assert done.stdout.splitlines()[0] == "./python3 -m venv .venv"
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "stor serve --port 0"), done.stderr
    assert not (clone.with_name("moved") / ".venv/bin" / left.name).exists()


def test_make_removes_no_environment_that_lies_elsewhere(clone: Path) -> None:
    elsewhere = clone.with_name("elsewhere")
    (elsewhere / "bin").mkdir(parents=True)
    (elsewhere / ".installed").touch()
    ours = {name: value for name, value in os.environ.items() if name not in ("VENV", "MAKEFLAGS", "MFLAGS")}
    chosen = ("make", "-n", f"VENV={elsewhere}", "SERVED=$(VENV)/.installed", "serve")
    done = subprocess.run(chosen, cwd=clone, env=ours, capture_output=True, text=True, timeout=60, check=True)
    assert f"-m venv {elsewhere}" in done.stdout
    assert "rm -rf" not in done.stdout


def test_a_skip_is_a_failure_in_continuous_integration(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (tmp_path / "test_sample.py").write_text(
        "import pytest\n"
        "def test_skipped(): pytest.skip('no root')\n"
        "@pytest.mark.may_skip(reason='needs hardware')\n"
        "def test_accepted(): pytest.skip('no hardware')\n"
        "@pytest.mark.xfail(reason='known')\n"
        "def test_expected(): assert False\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), str(tmp_path)],
        env={**os.environ, "CI": "true"},
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert "1 failed, 1 skipped, 1 xfailed" in done.stdout, done.stdout
    assert "does not accept: Skipped: no root" in done.stdout
