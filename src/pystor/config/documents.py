"""Reading a configuration file into plain values: JSON, or TOML when its name ends so."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
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


def _from_json(content: str, problems: Problems) -> object:
    return json.loads(content, object_pairs_hook=_without_repeats(problems), parse_constant=_refuse)


def _without_repeats(problems: Problems) -> Callable[[list[tuple[str, object]]], dict[str, object]]:
    def collect(pairs: list[tuple[str, object]]) -> dict[str, object]:
        collected: dict[str, object] = {}
        for name, value in pairs:
            if name in collected:
                problems.error(member("", name), "given twice; keep one of them")
            collected[name] = value
        return collected

    return collect


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is not JSON; write a number")
