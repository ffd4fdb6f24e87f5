"""What is wrong with a configuration: one line for each thing to mend, collected instead of raised."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Final

MASK: Final = "********"
"""Stands for a secret in everything that is printed."""

_PLAIN_KEY = re.compile(r"[\w-]+")


class Problems:
    """The errors and warnings found so far, each a line `WHERE: what is wrong; how to mend it`."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def error(self, where: str, line: str) -> None:
        """Note what makes the configuration unusable."""
        self.errors.append(f"{where}: {line}")

    def warn(self, where: str, line: str) -> None:
        """Note what can be meant, but probably is not."""
        self.warnings.append(f"{where}: {line}")

    def concern(self, name: str) -> bool:
        """Tell whether an error was noted about this key of the file."""
        return any(re.split(r"[:.\[]", line, maxsplit=1)[0] == name for line in self.errors)

    def warn_of_mask(self, where: str, secret: str) -> None:
        """Note a secret that is only the mask of one: what `check-config` prints was taken for a file."""
        if secret == MASK:
            self.warn(where, f"the secret is the mask {MASK} that check-config prints; put the real one there")

    def wrong(self, where: str, wanted: str, value: object) -> None:
        """Note a value of another type than `wanted`. The value itself is not told: it may be a secret."""
        self.error(where, f"must be {wanted}, not {_described(value)}")

    def unknown(self, where: str, name: str, known: Iterable[str]) -> None:
        """Note a key that does not exist, with the key that was probably meant."""
        close = difflib.get_close_matches(name.lower(), known, n=1)
        mend = f"did you mean {close[0]}?" if close else "remove it, or look for its name in docs/configuration.md"
        self.error(member(where, name), f"unknown key; {mend}")


def member(where: str, name: str) -> str:
    """Name a key below another: `s3_credentials.host`; a key that is no plain word is quoted."""
    shown = name if _PLAIN_KEY.fullmatch(name) else json.dumps(name)
    return f"{where}.{shown}" if where else shown


def _described(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case str():
            return "text" if value else "empty text"
        case int() | float():
            return "a number"
        case list():
            return "a list" if value else "an empty list"
        case dict():
            return "an object"
        case None:
            return "null"
        case _:
            return "a date or time"
