"""The options of an output as they are written in the configuration."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pystor.adapters.logs.levels import NAMES, level_of
from pystor.hosts import is_host

_Name = TypeVar("_Name", bound=str)


class Options:
    """The options of an output; each is taken once, and what is left is unknown. Raises ValueError with a line."""

    def __init__(self, options: Mapping[str, object]) -> None:
        self._left = {name: value for name, value in options.items() if value is not None}
        self._known: list[str] = []

    def take(self, name: str, default: Any = None) -> Any:
        """Take whatever it is."""
        self._known.append(name)
        return self._left.pop(name, default)

    def text(self, name: str, default: str) -> str:
        """Take what must be text, and not empty."""
        value = self.take(name, default)
        if not isinstance(value, str) or not value:
            raise ValueError(f"{name} must be text")
        if not _is_whole(value):
            raise ValueError(f"{name} must be text without NUL and broken characters")
        return value

    def host(self, name: str, default: str) -> str:
        """Take the name or the address of a host."""
        value = self.text(name, default)
        if not is_host(value):
            raise ValueError(f"{name} must be a host name or an address, without a scheme or port")
        return value

    def whole(self, name: str, default: int, lowest: int, highest: int) -> int:
        """Take a number from `lowest` to `highest`; it may be written as text."""
        value = self.take(name, default)
        with contextlib.suppress(TypeError, ValueError):
            if not isinstance(value, float) and lowest <= int(value) <= highest:
                return int(value)
        raise ValueError(f"{name} must be a whole number from {lowest} to {highest}")

    def flag(self, name: str, default: bool) -> bool:
        """Take what Perl takes for true or false."""
        return self.take(name, default) not in (False, 0, "", "0")

    def table(self, name: str) -> dict[str, object]:
        """Take an object."""
        value = self.take(name, {})
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be an object")
        return dict(value)

    def choice(self, name: str, default: _Name, choices: Collection[_Name]) -> _Name:
        """Take one of a few names."""
        value = self.take(name, default)
        for choice in choices:
            if choice == value:
                return choice
        raise ValueError(f"{name} must be one of {', '.join(choices)}")

    def level(self, name: str, default: str) -> int:
        """Take a level, by its name or its rank."""
        found = level_of(self.take(name, default))
        if found is None:
            raise ValueError(f"{name} must be one of {', '.join(NAMES)}")
        return found

    def ignore(self, *names: str) -> None:
        """Accept what the original has and what makes no difference here."""
        for name in names:
            self.take(name)

    def end(self) -> None:
        """Expect that nothing is left."""
        if self._left:
            raise ValueError(f"unknown option {next(iter(self._left))!r}; there are {', '.join(sorted(self._known))}")


def _is_whole(text: str) -> bool:
    """Tell whether the system takes this text; a path may hold bytes that are no characters."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
