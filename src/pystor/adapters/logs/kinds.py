"""The kinds of outputs, those of the original's list: made from what the configuration says about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from pystor.adapters.logs.formats import FORMATS, Style
from pystor.adapters.logs.network import GelfTcp, GelfUdp, Syslog
from pystor.adapters.logs.options import Options
from pystor.adapters.logs.outputs import Output
from pystor.adapters.logs.sinks import File, Screen, Sink

Described: TypeAlias = tuple[str, Mapping[str, object]]
"""An output as it is configured: its kind and its options, such as `("Screen", {"min_level": "info"})`."""

_FACILITIES: Final = {
    "kern": 0,
    "user": 1,
    "mail": 2,
    "daemon": 3,
    "auth": 4,
    "syslog": 5,
    "lpr": 6,
    "news": 7,
    "uucp": 8,
    "cron": 9,
    "authpriv": 10,
    "ftp": 11,
    **{f"local{number}": 16 + number for number in range(8)},
}
_NAME_OF_FIELD: Final = re.compile(r"(?!id\Z)[A-Za-z0-9_.-]+")
_DATAGRAMS: Final[Mapping[object, int]] = {"lan": 8154, "wan": 1420, 0: 65_507}


def _screen(options: Options, style: Style) -> Sink:
    options.ignore("utf8")
    return Screen(2 if options.flag("stderr", True) else 1, style)


def _file(options: Options, style: Style) -> Sink:
    options.ignore("mode", "binmode", "close_after_write", "autoflush", "syswrite", "lazy_open")
    return File(options.text("filename", ""), options.whole("permissions", 0o640, 0, 0o777), style)


def _syslog(options: Options, _: Style) -> Sink:
    options.ignore("logopt", "lock")
    place = options.text("socket", "/dev/log")
    path = place if place.startswith("/") else "/dev/log"
    return Syslog(path, options.text("ident", "stor"), _FACILITIES[options.choice("facility", "user", _FACILITIES)])


def _gelf(options: Options, _: Style) -> Sink:
    # The original has the address in an object of its own; here it may as well stand beside the other options.
    place = Options(options.table("socket") or {name: options.take(name) for name in ("host", "port", "protocol")})
    address = place.host("host", "localhost"), place.whole("port", 12201, 1, 65535)
    protocol = place.choice("protocol", "udp", ("udp", "tcp"))
    place.end()
    fields = _fields(options.table("additional_fields"))
    compress, datagram = options.flag("compress", False), _datagram(options.take("chunked", "wan"))
    return GelfTcp(address, fields) if protocol == "tcp" else GelfUdp(address, fields, datagram, compress)


def _fields(given: Mapping[str, object]) -> dict[str, object]:
    for name in given:
        if not _NAME_OF_FIELD.fullmatch(name.removeprefix("_")):
            raise ValueError(f"additional_fields has {name!r}; a name has letters, digits, _, . and -, and is not id")
    return {name.removeprefix("_"): value for name, value in given.items() if value is not None}


def _datagram(size: Any) -> int:
    if isinstance(size, Hashable) and size in _DATAGRAMS:
        return _DATAGRAMS[size]
    if isinstance(size, int) and 512 <= size <= 65_507:
        return size
    raise ValueError("chunked must be lan, wan, 0 or the size of a datagram, from 512 to 65507 bytes")


_KINDS: Final[dict[str, Callable[[Options, Style], Sink]]] = {
    "Screen": _screen,
    "File": _file,
    "File::Locked": _file,
    "Syslog": _syslog,
    "Gelf": _gelf,
}


def output_of(described: Described, level: str, style: Style) -> Output:
    """Make an output, with the lowest level and the style that it has unless its options say otherwise.

    Raises ValueError with a line that tells what is wrong.
    """
    kind, given = described
    if kind not in _KINDS:
        raise ValueError(f"{kind!r} is no kind of output; there are {', '.join(_KINDS)}")
    options = Options(given)
    options.ignore("name", "newline")
    lowest, highest = options.level("min_level", level), options.level("max_level", "emergency")
    if lowest > highest and given.get("min_level") is not None:  # log_level alone may make an output silent
        raise ValueError("min_level must not be above max_level, for nothing is between them")
    sink = _KINDS[kind](options, options.choice("format", style, tuple(FORMATS)))
    options.end()
    return Output(sink, lowest, highest)


def problems(outputs: Sequence[Described]) -> list[str]:
    """Tell what is wrong with the outputs as they are configured, a line each; nothing is opened."""
    found = []
    for index, described in enumerate(outputs):
        try:
            output_of(described, "info", "text")
        except ValueError as error:
            found.append(f"log[{index}]: {error}")
    return found
