"""A look at all storages of a configuration at once, and what they are taken for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from pystor import marker, mounts
from pystor.directory import Directory
from pystor.errors import StorageError
from pystor.fan_out import ask_all
from pystor.identity import Seen, Verdict, judge

TIMEOUT: Final = 2.0
"""Seconds within which a storage has to show what it is."""


def take(sets: Sequence[Sequence[Directory]], timeout: float = TIMEOUT) -> dict[Directory, Verdict]:
    """Look at the storages of all replica sets; one that is silent for `timeout` seconds could not be seen."""
    storages = [storage for group in sets for storage in group]
    seen = ask_all(_look, storages, timeout)
    silence = f"no answer within {timeout:g} s"
    looks = [[seen.get(storage) or Seen(storage.root, fault=silence) for storage in group] for group in sets]
    return dict(zip(storages, judge(looks), strict=True))


def _look(storage: Directory) -> Seen:
    root = storage.root
    try:
        found = storage.look()
        return Seen(
            root,
            found,
            mounted=mounts.is_mount(root),
            unmounted=None if found else mounts.unmounted(root),
            may_be_plain=storage.may_be_plain,
            stands_in=not (found or storage.writable) and marker.stand_in(root) is not None,
            owner=os.stat(root if found is None else f"{root}/{marker.HOME}").st_uid,
        )
    except StorageError as error:
        return Seen(root, fault=error.reason)
    except OSError as error:
        return Seen(root, fault=error.strerror or str(error))
