"""Keys as data: a dataclass whose fields are made by `key` says all there is to know about an object of the file.

`fill` reads such an object, `plain` writes it, and a test compares it with the documentation. A new key is one line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from pystor.config.problems import MASK, Problems, member
from pystor.config.values import Parser

T = TypeVar("T")


@runtime_checkable
class Shown(Protocol):
    """A value that has its own way of being written into a configuration file, secrets masked."""

    def shown(self) -> object:
        """Tell what would stand in a JSON file."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: how its value is parsed, what it is when absent, and what it means in a line."""

    parse: Parser[object]
    default: object
    doc: str
    required: bool = False
    secret: bool = False


def key(parse: Parser[T], default: T, doc: str, *, required: bool = False, secret: bool = False) -> T:
    """Make a field of a dataclass that is a key of the file.

    A `secret` is masked wherever it is printed.
    """
    entry = Key(parse, default, doc, required, secret)
    return dataclasses.field(default=default, repr=not secret, metadata={"key": entry})


def keys_of(kind: Callable[..., object]) -> dict[str, Key]:
    """Tell the keys of a dataclass whose fields were made by `key`, in their order."""
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(kind)  # type: ignore[arg-type]  # any dataclass
    return {field.name: field.metadata["key"] for field in fields}


def record(kind: Callable[..., T]) -> Parser[T]:
    """Parse an object with the keys of the dataclass `kind`."""
    wanted = f"an object with the keys {', '.join(keys_of(kind))}"

    def parse(value: object, where: str, problems: Problems) -> T | None:
        return fill(kind, value, where, problems) if isinstance(value, dict) else problems.wrong(where, wanted, value)

    return parse


def fill(kind: Callable[..., T], document: Mapping[str, object], where: str, problems: Problems) -> T:
    """Make a `kind` of the values that are given and good; other keys are noted, and null is as good as absent."""
    keys = keys_of(kind)
    for name in document:
        if name not in keys:
            problems.unknown(where, name, keys)
    found: dict[str, object] = {}
    for name, entry in keys.items():
        if document.get(name) is not None:
            found[name] = entry.parse(document[name], member(where, name), problems)
        elif entry.required:
            problems.error(member(where, name), f"missing; give {entry.doc[0].lower()}{entry.doc[1:]}")
    return kind(**{name: value for name, value in found.items() if value is not None})


def plain(value: object) -> object:
    """Turn typed values into what JSON knows, as it could stand in a file; secrets are masked."""
    match value:
        case Shown():
            return value.shown()
        case Path():
            return str(value)
        case tuple():
            return [plain(item) for item in value]
        case _ if dataclasses.is_dataclass(value):
            return {name: _shown(entry, getattr(value, name)) for name, entry in keys_of(type(value)).items()}
        case _:
            return value


def _shown(entry: Key, value: object) -> object:
    return MASK if entry.secret and value else plain(value)
