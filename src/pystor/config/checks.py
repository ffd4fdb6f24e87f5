"""What no single key can tell: how the keys go together."""

from __future__ import annotations

from pystor.config.problems import Problems
from pystor.config.settings import Settings


def check(settings: Settings, problems: Problems) -> None:
    """Note what does not go together. What warns looks at settings without errors only."""
    keys = settings.s3_credentials
    if keys is not None and bool(keys.access_key) != bool(keys.secret_key) and not problems.concern("s3_credentials"):
        problems.error("s3_credentials", "has one of access_key and secret_key; give both, or none")
    if not settings.s3_enabled:
        for name in ("s3_mirror", "s3_promote", "s3_redirect"):
            if getattr(settings, name):
                problems.error(name, "needs the archive; set s3_enabled to true, or this to false")
    if not problems.errors:
        _warn(settings, problems)


def _warn(settings: Settings, problems: Problems) -> None:
    _check_writable(settings, problems)
    if settings.basic_auth is None:
        problems.warn("basic_auth", "missing, so every upload is refused with 401; give it as USER:PASSWORD")
    if settings.durability == "none":
        problems.warn("durability", "none: a power cut can lose acknowledged uploads; use fsync for real data")


def _check_writable(settings: Settings, problems: Problems) -> None:
    matches = [sum(map(settings.lets_write, pair)) for pair in settings.storage_pairs]
    for index, (pair, matching) in enumerate(zip(settings.storage_pairs, matches, strict=True)):
        if 0 < matching < len(pair):
            line = f"read-only: only {matching} of its {len(pair)} storages match writable_pairs_regex"
            problems.warn(f"storage_pairs[{index}]", line)
    if not any(matching == len(pair) for pair, matching in zip(settings.storage_pairs, matches, strict=True)):
        line = "makes nothing writable, so every upload is refused with 507; let it match a whole pair"
        problems.warn("writable_pairs_regex", line)
