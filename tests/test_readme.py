"""The README's first five minutes, typed as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support import processes

ROOT: Final = Path(__file__).resolve().parent.parent
README: Final = (ROOT / "README.md").read_text()
COMMANDS: Final[list[str]] = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]

_DOCUMENTED_PORT: Final = 8080

# What `make test` hands to everything below it, as the arguments of pytest, and a newcomer's terminal has not.
_NOT_A_NEWCOMERS: Final = frozenset({"CONFIG_FILE", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", "ARGS"})


class Clone:
    """A copy of the repository in which `make serve` runs, and a second terminal beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = _DOCUMENTED_PORT if _is_free(_DOCUMENTED_PORT) else 0
        self._log = directory.parent / "serve.log"
        self._serve: subprocess.Popen[bytes] | None = None

    def serve(self, command: str) -> None:
        """Run `make serve`, in this environment instead of one that would have to be installed."""
        arguments = [f"VENV={sys.prefix}", "SERVED=", "ARGS=" if self.port else "ARGS=--port 0"]
        with self._log.open("wb") as log:
            self._serve = subprocess.Popen(
                [*command.split(), *arguments],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in os.environ.items() if name not in _NOT_A_NEWCOMERS},
                start_new_session=True,
            )
        processes.eventually(self._listens, within=30, what="make serve listens")

    def _listens(self) -> bool:
        assert self._serve is not None
        assert self._serve.poll() is None, self._log.read_text()
        match = re.search(r"^listening on http://127\.0\.0\.1:(\d+)$", self._log.read_text(), re.MULTILINE)
        self.port = int(match[1]) if match else self.port
        return match is not None

    def type(self, command: str) -> str:
        """Type a command in the second terminal, on the port that was free."""
        command = command.replace(f":{_DOCUMENTED_PORT}/", f":{self.port}/")
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.directory,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}\n{self._log.read_text()}"
        return done.stdout

    def interrupt(self) -> None:
        """Press Ctrl-C in the first terminal: every process of it gets the signal."""
        if self._serve is None or self._serve.poll() is not None:
            return
        os.killpg(self._serve.pid, signal.SIGINT)
        self._serve.wait(30)
        session = self._serve.pid
        processes.eventually(lambda: not processes.in_session(session), what="Ctrl-C ends everything")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    directory = tmp_path / "stor"
    directory.mkdir()
    for name in ("Makefile", "README.md", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, directory)
    here = Clone(directory)
    yield here
    here.interrupt()


def _typed(word: str) -> str:
    """Find the one command with this word."""
    (command,) = [command for command in COMMANDS if word in command]
    return command


def test_the_first_five_minutes_go_as_the_readme_tells(clone: Clone) -> None:
    clone.serve(_typed("make serve"))

    written = json.loads(clone.type(_typed("--data-binary")))
    assert len(written) == 2
    assert clone.type(_typed("cmp")).endswith("the same\n")

    found = clone.type(_typed("find")).split()
    assert sorted(clone.directory / path for path in found) == sorted(map(Path, written))
    assert clone.type(_typed("/status")).strip() == "OK"


def test_the_readme_shows_serving_and_testing_first_and_nothing_that_is_not_tried() -> None:
    tried = ("make serve", "--data-binary", "cmp", "find", "/status", "make test")
    assert [_typed(word) for word in tried] == COMMANDS


def test_the_configuration_of_the_readme_is_accepted(tmp_path: Path) -> None:
    (document,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    for name in re.findall(r"/mnt/data\d", document):
        (tmp_path / Path(name).name).mkdir()
    config = tmp_path / "config.json"
    config.write_text(document.replace("/mnt", str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-m", "pystor", "check-config", "--config", str(config)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["host"] == json.loads(document)["host"]
