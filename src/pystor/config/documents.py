"""Reading a configuration file into plain values: JSON, or TOML when its name ends so."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path

from pystor.config.problems import Problems, member
from pystor.errors import ConfigError


def read(path: Path, problems: Problems) -> dict[str, object]:
    """Read a file whose outermost value is an object; `ConfigError` when there is no making sense of it."""
    content = _content(path)
    try:
        document = tomllib.loads(content) if path.suffix == ".toml" else _from_json(content, problems)
    except json.JSONDecodeError as error:
        raise ConfigError([f"{path}: line {error.lineno} column {error.colno}: {error.msg}"]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{path}: {error}"]) from None
    if not isinstance(document, dict):
        raise ConfigError([f"{path}: must be an object of keys and values, as docs/configuration.md shows"])
    return document


def _content(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError([f"{path}: cannot be read: {reason}; name another with --config or CONFIG_FILE"]) from None


class _Object(dict[str, object]):
    """An object of a JSON file, and the names that it has twice."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]


class _Constant(str):
    """`NaN` or an infinity, which Python reads as JSON."""

    __slots__ = ()


def _from_json(content: str, problems: Problems) -> object:
    document = json.loads(content, object_pairs_hook=_Object, parse_constant=_Constant)
    _look_through(document, "", problems)
    return document


def _look_through(value: object, where: str, problems: Problems) -> None:
    if isinstance(value, _Object):
        for name in value.repeated:
            problems.error(member(where, name), "given twice; keep one of them")
        for name, below in value.items():
            _look_through(below, member(where, name), problems)
    elif isinstance(value, list):
        for index, below in enumerate(value):
            _look_through(below, f"{where}[{index}]", problems)
    elif isinstance(value, _Constant) and where:
        raise ValueError(f"{where}: {value} is not JSON; write a number")
