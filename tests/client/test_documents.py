"""The documents of the client say what is so."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import lay, sha
from tests.client.test_commands import Shell
from tests.support import reference
from tests.support.server import Server

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_reference_is_that_of_the_code() -> None:
    assert (DOCS / "client.md").read_text() == reference.document(), (
        "python -m tests.support.reference > docs/client.md"
    )


def test_both_clients_have_the_same_verbs_with_the_same_arguments() -> None:
    _, *sections = re.split(r"^### ", (DOCS / "client.md").read_text(), flags=re.MULTILINE)
    verbs = {section.split("\n")[0]: re.findall(r"^- `(.+)`:", section, re.MULTILINE) for section in sections}
    assert verbs["AsyncClient"] == verbs["Client"] != []


def test_the_program_in_the_page_goes_on_after_a_bad_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "bulk-transfers.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (name,) = lay(server, b"of the program")
    defined: dict[str, Any] = {}
    exec(re.sub(r"http://stor\d.example", server.url, program), defined)  # noqa: S102
    (tmp_path / "downloads").mkdir()
    monkeypatch.chdir(tmp_path)
    asyncio.run(defined["fetch"](["no name", sha(b"nowhere"), name]))
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == [name]
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_line_for_jq_in_the_page_names_what_failed(server: Server, tmp_path: Path) -> None:
    page = (DOCS / "bulk-transfers.md").read_text()
    ((event, key),) = re.findall(r"""jq -r 'select\(\.event == "(\w+)"\) \| \.(\w+)'""", page)
    done = Shell(server, tmp_path).run("stor", "get", "--json", sha(b"nowhere"), "out")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each[key] for each in told if each["event"] == event] == [sha(b"nowhere")]


def test_the_tutorial_works_as_it_is_typed(server: Server, tmp_path: Path) -> None:
    shell = Shell(server, tmp_path)
    (tmp_path / "stor-data").mkdir()
    (tmp_path / "stor-data/credentials").write_text(f"{server.user}:{server.password}\n")
    blocks = re.findall(r"```console\n(.*?)```", (DOCS / "tutorial.md").read_text(), re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    script = "\n".join(lines).replace("http://127.0.0.1:8080", server.url)
    path = f"{Path(sys.executable).parent}:{shell.environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=shell.environment | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert all(word in said for word in ("letters/one: OK", "2 uploaded", "2 skipped", "2 downloaded", "2 good, 0 bad"))
