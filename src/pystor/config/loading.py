"""From a file, or from nothing, to settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pystor.config.checks import check
from pystor.config.documents import read
from pystor.config.problems import Problems
from pystor.config.settings import Settings
from pystor.config.table import fill, keys_of
from pystor.errors import ConfigError

_NUMBERS = frozenset({"port", "workers"})


def _none(_: Settings) -> Sequence[str]:
    return ()


def load(
    path: Path, overrides: Mapping[str, str] | None = None, log_problems: Callable[[Settings], Sequence[str]] = _none
) -> tuple[Settings, list[str]]:
    """Read and validate a configuration file; return the settings and a line for each warning.

    `overrides` are values from the command line, by key: they win over the file. `log_problems` tells what is wrong
    with the outputs of the log, a line each. Everything that is wrong is told at once, in a `ConfigError`.
    """
    problems = Problems()
    settings = fill(Settings, read(path, problems), "", problems)
    settings = _overridden(settings, overrides or {}, problems)
    check(settings, problems)
    if not problems.concern("log"):  # else some of the outputs are left out
        problems.errors.extend(log_problems(settings))
    return _accepted(settings, problems), problems.warnings


def override(settings: Settings, overrides: Mapping[str, str]) -> Settings:
    """Put values from the command line, by key, in the place of others; `ConfigError` tells all that are wrong."""
    problems = Problems()
    return _accepted(_overridden(settings, overrides, problems), problems)


def _overridden(settings: Settings, overrides: Mapping[str, str], problems: Problems) -> Settings:
    keys = keys_of(Settings)
    typed = {name: _number_or_text(text) if name in _NUMBERS else text for name, text in overrides.items()}
    parsed = {name: keys[name].parse(value, f"--{name}", problems) for name, value in typed.items()}
    given = {name: value for name, value in parsed.items() if value is not None}
    return replace(settings, **given)  # type: ignore[arg-type]  # each was parsed by its own key


def _number_or_text(text: str) -> int | str:
    return int(text) if re.fullmatch(r"-?[0-9]{1,19}", text) else text


def _accepted(settings: Settings, problems: Problems) -> Settings:
    if problems.errors:
        raise ConfigError(problems.errors)
    return settings
