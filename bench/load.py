"""Load by wrk: what it is told, and what it tells."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.blobs import NUMBER
from bench.samples import Sample

_SCRIPT = Path(__file__).with_name("load.lua")
_RESULT = re.compile(r"^LOAD (.*)$", re.MULTILINE)
_TIMEOUT = 20
"""Seconds that an answer may take."""

_LARGE = 50_000_000


class LoadFailed(Exception):
    """Answers were wrong or missing: what was measured is worth nothing."""


@dataclass(frozen=True, slots=True)
class Uploads:
    """What is uploaded: the bodies from `first` on, each under its path."""

    first: int
    paths: Sequence[str]
    filler: bytes
    method: str = "PUT"
    headers: Mapping[str, str] = field(default_factory=dict)
    every: int = 1
    """Each so many requests are an upload; the others read."""


@dataclass(frozen=True, slots=True)
class Requests:
    """What is asked for, again and again."""

    paths: Sequence[str] = ()
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    uploads: Uploads | None = None
    missing: bool = False
    """Whether all answers are to be failures, because nothing is there."""


def run(url: str, requests: Requests, *, connections: int, seconds: int, directory: Path) -> Sample:
    """Have wrk ask for so many seconds; raises `LoadFailed` if any answer was not as it should be."""
    plan = directory / "plan.lua"
    plan.write_text(_plan(requests, directory))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={_TIMEOUT}s", "-s", str(_SCRIPT)]
    done = subprocess.run([*command, url, "--", str(plan)], check=False, capture_output=True, text=True)
    return parse(done.stdout + done.stderr, missing=requests.missing)


def parse(output: str, *, missing: bool = False) -> Sample:
    """Read what the script told at its end."""
    match = _RESULT.search(output)
    if match is None:
        raise LoadFailed(output.strip()[-500:])
    told = {name: int(value) for name, value in (word.split("=") for word in match[1].split())}
    answered = told["requests"] or told["bytes"] > _LARGE  # none was whole at the end, but much of them has arrived
    if told["failed"] or told["refused"] != (told["requests"] if missing else 0) or not answered:
        raise LoadFailed(match[1])
    return Sample(
        requests=told["requests"],
        seconds=told["microseconds"] / 1e6,
        received=told["bytes"],
        p50=told["p50"] / 1000,
        p99=told["p99"] / 1000,
    )


def _plan(requests: Requests, directory: Path) -> str:
    reads = ", ".join(_table(requests.method, path, requests.headers) for path in requests.paths)
    return f"return {{ reads = {{ {reads} }}, {_uploads(requests.uploads, directory)} }}\n"


def _table(method: str, path: str, headers: Mapping[str, str]) -> str:
    fields = ", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items())
    return f"{{ {json.dumps(method)}, {json.dumps(path)}, {{ {fields} }} }}"


def _uploads(uploads: Uploads | None, directory: Path) -> str:
    if uploads is None:
        return "every = 0"
    names, filler = directory / "names", directory / "filler"
    names.write_text("\n".join(uploads.paths) + "\n")
    filler.write_bytes(uploads.filler)
    headers = "".join(f"{name}: {value}\r\n" for name, value in uploads.headers.items())
    told = {
        "every": uploads.every,
        "method": uploads.method,
        "headers": headers,
        "size": len(uploads.filler) + NUMBER,
        "first": uploads.first,
        "names": str(names),
        "filler": str(filler),
    }
    return ", ".join(f"{name} = {json.dumps(value)}" for name, value in told.items())
