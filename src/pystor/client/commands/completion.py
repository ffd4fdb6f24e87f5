"""`stor completion`: what a shell reads to complete the commands."""

from __future__ import annotations

import argparse


def run(given: argparse.Namespace) -> int:
    """Print the script for a shell."""
    import shtab

    print(shtab.complete(given.root, shell=given.shell))
    return 0
