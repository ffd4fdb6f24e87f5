"""`stor completion`: what a shell reads to complete the commands."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any


def run(given: argparse.Namespace) -> int:
    """Print the script for a shell."""
    import shtab

    _mark(given.root, {"FILE": shtab.FILE, "PATH": shtab.FILE, "DIR": shtab.DIRECTORY})
    print(shtab.complete(given.root, shell=given.shell))
    return 0


def _mark(parser: argparse.ArgumentParser, kinds: Mapping[str, Any]) -> None:
    """Tell shtab which arguments of a parser, and of the commands below it, are paths: by their metavars."""
    actions = parser._actions  # noqa: SLF001  nothing else tells them
    if "DIR" in {action.metavar for action in actions}:
        kinds = {**kinds, "SHA": kinds["DIR"]}  # the words before it may be any number, so it may be the next one
    for action in actions:
        if isinstance(action.choices, Mapping):
            for command in action.choices.values():
                _mark(command, kinds)
        elif kind := kinds.get(str(action.metavar)):
            setattr(action, "complete", kind)  # noqa: B010  what argparse does not know
