"""Answers of a server as values, read with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said. Names of headers are lower case; repeated ones are joined with a comma."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def paths(self) -> list[str]:
        """The paths of the replicas that an upload was answered with."""
        paths: list[str] = self.json
        assert all(isinstance(path, str) for path in paths), self
        return paths


def read(response: http.client.HTTPResponse) -> Answer:
    """Read a response to its end; a body that is shorter than declared raises `http.client.IncompleteRead`."""
    body = response.read()
    headers: dict[str, str] = {}
    for name, value in response.getheaders():
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return Answer(response.status, headers, body)
