"""Entries as text for people, as JSON and as GELF."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from pystor.adapters.logs.entries import Entry
from pystor.adapters.logs.levels import name_of, rank

Style: TypeAlias = Literal["text", "json"]

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def one_line(text: str) -> str:
    """Keep what somebody else chose from looking like a line of its own."""
    if text.isprintable():
        return text
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def as_text(entry: Entry) -> str:
    """Write an entry for people: a line, below it the stack trace if there is one."""
    seconds, milliseconds = divmod(int(entry.time * 1000), 1000)
    line = f"{_local(seconds)},{milliseconds:03d} {name_of(entry.level).upper()} {entry.source}: {entry.message()}"
    if entry.request is not None:
        shown = {name: value for name, value in entry.details().items() if name not in ("method", "path", "status")}
        line += "".join(f" {name}={value}" for name, value in shown.items())
    return one_line(line) + (f"\n{entry.trace}" if entry.trace else "")


@lru_cache(maxsize=2)
def _local(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def as_json(entry: Entry) -> str:
    """Write an entry as a line of JSON."""
    when = datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = {"time": when, "level": name_of(entry.level), "logger": entry.source, "message": entry.message()}
    trace = {"trace": entry.trace} if entry.trace else {}
    return json.dumps({**head, **entry.details(), **trace}, ensure_ascii=False, default=str)


def as_gelf(entry: Entry, host: str, fields: Mapping[str, object]) -> bytes:
    """Write an entry as a message of GELF 1.1."""
    message: dict[str, object] = {
        "version": "1.1",
        "host": host,
        "short_message": entry.message() or "-",
        "timestamp": round(entry.time, 3),
        "level": 7 - rank(entry.level),
        "_logger": entry.source,
    }
    if entry.trace:
        message["full_message"] = f"{entry.message()}\n{entry.trace}"
    more = {**fields, **entry.details()}
    # GELF has text and numbers, and no flags.
    message |= {f"_{name}": int(value) if isinstance(value, bool) else value for name, value in more.items()}
    return json.dumps(message, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")


FORMATS: Final[Mapping[Style, Callable[[Entry], str]]] = {"text": as_text, "json": as_json}
