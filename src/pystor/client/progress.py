"""The line that shows how far a bulk transfer is: totals in, text out."""

from __future__ import annotations

from typing import Final

from pystor.client.bulk import Totals

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_LEAST_BAR: Final = 6


def size(count: float) -> str:
    """Write a number of bytes, as `4.0 KiB`."""
    unit = 0
    while count >= 1023.95 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} B" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Write a time, as `1:05` or `2:00:01`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def share(totals: Totals) -> float | None:
    """Tell how much of it is done, from 0 to 1; None while nobody knows how much there is.

    By bytes when all of them are known, else by files.
    """
    if not totals.final or not totals.expected:
        return None
    if totals.known and totals.announced > 0:
        return min(1.0, totals.moved / totals.announced)
    return totals.settled / totals.expected


def line(totals: Totals, seconds: float, width: int = 80) -> str:
    """Draw the line: a bar, files, bytes, rates and the time that is left, as far as they are known and have room."""
    part = share(totals)
    rate = totals.moved / seconds if seconds > 0 else 0.0
    files = f"{totals.settled:,}/{totals.expected:,} files" if totals.final else f"{totals.settled:,} files"
    facts = [files, size(totals.moved), f"{size(rate)}/s", _left(part, seconds)]
    if totals.failed:
        facts.insert(1, f"{totals.failed:,} failed")
    text = "  ".join(fact for fact in facts if fact)
    room = width - 1 - len(text) - len("[] 100%  ")
    if part is None or room < _LEAST_BAR:
        return text[: width - 1]
    room = min(room, 24)
    filled = int(part * room)
    return f"[{'#' * filled}{'.' * (room - filled)}] {int(part * 100):3}%  {text}"


def _left(part: float | None, seconds: float) -> str:
    if part is None or part <= 0 or seconds < 1:
        return ""
    return f"{duration(seconds * (1 - part) / part)} left"


def summary(totals: Totals, seconds: float, verb: str) -> str:
    """Say in a sentence how it went, as `20,000 downloaded, 3 skipped, 1 failed: 78.1 MiB in 6.1 s, 12.8 MiB/s`."""
    counts = [f"{totals.done:,} {verb}"]
    counts += [f"{totals.skipped:,} skipped"] if totals.skipped else []
    counts += [f"{totals.failed:,} failed"] if totals.failed else []
    moved = (
        f": {size(totals.size)} in {seconds:.1f} s, {size(totals.size / max(seconds, 0.001))}/s" if totals.size else ""
    )
    return f"{', '.join(counts)}{moved}"
