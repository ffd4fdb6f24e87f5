"""Parsing functions for single values; larger ones are composed of them.

Each takes `(value, where, problems)`. It returns what it parsed, or notes what is wrong and returns None.
"""

from __future__ import annotations

import re
import warnings
from typing import Final, Protocol, TypeVar

from pystor.config.problems import Problems
from pystor.hosts import is_host

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Word = TypeVar("Word", bound=str)

MOST_BYTES: Final = 2**63 - 1
YEAR: Final = 365 * 86400.0

_SIZE: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?) ?([KMGT]?)(i?)B", re.ASCII | re.IGNORECASE)
_POWERS: Final = " KMGT"


class Parser(Protocol[T_co]):
    """Turns one value of the document into a typed one, or notes why not and returns None."""

    def __call__(self, value: object, where: str, problems: Problems, /) -> T_co | None:
        """Parse `value`, which stands at `where` (such as `s3_credentials.host`) in the file."""


def ignored(_value: object, _where: str, _problems: Problems) -> None:
    """Accept anything and keep nothing of it."""


def flag(value: object, where: str, problems: Problems) -> bool | None:
    """Parse true or false; 1 and 0 too, as Perl writes them."""
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    return problems.wrong(where, "true or false", value)


def text(value: object, where: str, problems: Problems) -> str | None:
    """Parse a text that is not empty."""
    if isinstance(value, str) and value:
        return value
    return problems.wrong(where, "text that is not empty", value)


def any_text(value: object, where: str, problems: Problems) -> str | None:
    """Parse a text, the empty one too."""
    return value if isinstance(value, str) else problems.wrong(where, "text", value)


def whole(least: int, most: int) -> Parser[int]:
    """Parse a whole number from `least` to `most`."""
    wanted = f"a whole number from {least} to {most}"

    def parse(value: object, where: str, problems: Problems) -> int | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return problems.wrong(where, wanted, value)
        if not least <= value <= most:
            return problems.error(where, f"must be {wanted}; this one is too {'small' if value < least else 'large'}")
        return value

    return parse


def number(least: float, most: float, unit: str = "") -> Parser[float]:
    """Parse a number from `least` to `most`; neither NaN nor the infinities are."""
    wanted = f"a number{unit} from {least:.15g} to {most:.15g}"

    def parse(value: object, where: str, problems: Problems) -> float | None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return problems.wrong(where, wanted, value)
        if not least <= value <= most:
            return problems.error(where, f"must be {wanted}; this one is not")
        return float(value)

    return parse


def seconds(least: float = 0.001) -> Parser[float]:
    """Parse a duration in seconds, up to a year."""
    return number(least, YEAR, " of seconds")


def size(least: int = 0, most: int = MOST_BYTES) -> Parser[int]:
    """Parse a number of bytes: a whole number, or a text such as `64MiB` (powers of 1024) or `10GB` (of 1000)."""
    in_range = whole(least, most)

    def parse(value: object, where: str, problems: Problems) -> int | None:
        if isinstance(value, str):
            value = _bytes_of(value)
            if value is None:
                return problems.error(where, "must be a number of bytes, or text such as 64MiB or 10GB")
        return in_range(value, where, problems)

    return parse


def _bytes_of(amount: str) -> int | None:
    match = _SIZE.fullmatch(amount.strip())
    if match is None or (match[3] and not match[2]):
        return None
    factor: int = (1024 if match[3] else 1000) ** _POWERS.index(match[2].upper() or " ")
    whole_part, _, fraction = match[1].partition(".")
    return int(whole_part) * factor + int(fraction.ljust(9, "0")) * factor // 10**9


def part(value: object, where: str, problems: Problems) -> float | None:
    """Parse a part of a whole, from 0 to 1; true is all of it, false nothing."""
    return number(0, 1)(int(value) if isinstance(value, bool) else value, where, problems)


def choice(*allowed: Word) -> Parser[Word]:
    """Parse one of a few words."""
    wanted = " or ".join(allowed)

    def parse(value: object, where: str, problems: Problems) -> Word | None:
        if not isinstance(value, str):
            return problems.wrong(where, wanted, value)
        return next((word for word in allowed if word == value), None) or problems.error(where, f"must be {wanted}")

    return parse


def regex(value: object, where: str, problems: Problems) -> str | None:
    """Parse a regular expression; it is kept as text, which compiles."""
    if not isinstance(value, str):
        return problems.wrong(where, "a regular expression", value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            re.compile(value)
    except FutureWarning as error:
        line = f"{value!r} is another expression here than in Perl: {error}; write [0-9] for [[:digit:]], \\[ for a ["
        return problems.error(where, line)
    except (re.error, OverflowError, RecursionError) as error:
        return problems.error(where, f"{value!r} is no regular expression of Python: {error}; mend or remove it")
    return value


def hostname(value: object, where: str, problems: Problems) -> str | None:
    """Parse a host name or an address, without a port."""
    if not isinstance(value, str):
        return problems.wrong(where, "a host name or an address", value)
    if is_host(value):
        return value
    return problems.error(where, f"{value!r} is no host name or address; write it alone, without a scheme or port")


def listing(item: Parser[T], wanted: str) -> Parser[tuple[T, ...]]:
    """Parse a list, each of its items by `item`; an item that is wrong is noted and left out."""

    def parse(value: object, where: str, problems: Problems) -> tuple[T, ...] | None:
        if not isinstance(value, list):
            return problems.wrong(where, wanted, value)
        parsed = [item(element, f"{where}[{index}]", problems) for index, element in enumerate(value)]
        return tuple(element for element in parsed if element is not None)

    return parse
