"""The neighbours as typed values: who may write, statsite, S3, memcached, RabbitMQ and the log."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from pystor.address import parse_bucket, parse_prefix, parse_region
from pystor.config.problems import MASK, Problems
from pystor.config.table import key
from pystor.config.values import Parser, any_text, hostname, number, text, whole
from pystor.hosts import is_host_of_url, join_address, split_address

Scalar: TypeAlias = str | int | float | bool | None
Option: TypeAlias = Scalar | dict[str, Scalar]

_SECONDS: Final = re.compile(r"[0-9]{1,5}")
_LONGEST_NAME: Final = 255  # bytes of a name in AMQP
_PATHS: Final = frozenset({"filename", "socket"})  # the options of outputs that name files


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who may write."""

    user: str
    password: str = field(repr=False)

    def shown(self) -> str:
        """Write it as in the file, the password masked."""
        return f"{self.user}:{MASK}"


def credentials(value: object, where: str, problems: Problems) -> Credentials | None:
    """Parse `USER:PASSWORD`, both not empty; the password may have colons in it."""
    if not isinstance(value, str):
        return problems.wrong(where, "text of the form USER:PASSWORD", value)
    user, _, password = value.partition(":")
    problems.warn_of_mask(where, password)
    if user and password:
        try:
            value.encode()
        except UnicodeEncodeError:
            return problems.error(where, "has a broken character, which no client can send; write it anew")
        if user != user.strip() or password != password.strip():
            problems.warn(where, "the spaces or line breaks around user or password are part of them; are they meant?")
        return Credentials(user, password)
    return problems.error(where, "must have the form USER:PASSWORD, with a colon and neither of them empty")


def metric_prefix(value: object, where: str, problems: Problems) -> str | None:
    """Parse what is put before the names of metrics."""
    parsed = any_text(value, where, problems)
    try:
        (parsed or "").encode()
    except UnicodeEncodeError:
        return problems.error(where, "has a broken character, which cannot be sent; write it anew")
    return parsed


@dataclass(frozen=True, slots=True)
class Statsite:
    """Where metrics go."""

    host: str = key(hostname, "localhost", "Host that receives the metrics by UDP")
    port: int = key(whole(1, 65535), 8125, "UDP port")
    prefix: str = key(metric_prefix, "", "Put before the name of each metric, with a dot")
    sample_rate: float = key(number(0, 1), 1.0, "Part of the metrics that is sent")


def endpoint(value: object, where: str, problems: Problems) -> str | None:
    """Parse `HOST`, `HOST:PORT` or such a one after `http://` or `https://`; it is kept as it was written."""
    if not isinstance(value, str):
        return problems.wrong(where, "text of the form HOST or HOST:PORT", value)
    address = value.removeprefix("https://").removeprefix("http://").removesuffix("/")
    parts = split_address(address)
    if parts is None:
        return problems.error(where, "must have the form HOST or HOST:PORT, or be an http or https URL without a path")
    if not is_host_of_url(parts[0]):
        return problems.error(where, f"{parts[0]!r} cannot stand in a URL; write it in ASCII, as xn--... if need be")
    return value


def key_text(value: object, where: str, problems: Problems) -> str | None:
    """Parse a key or its name; it may be a secret, so it is not told."""
    parsed = text(value, where, problems)
    if parsed is None or (parsed.isascii() and parsed.isprintable()):
        return parsed
    return problems.error(where, "has a character that no key has, such as a line break; write it anew")


def secret_text(value: object, where: str, problems: Problems) -> str | None:
    """Parse a secret key."""
    parsed = key_text(value, where, problems)
    problems.warn_of_mask(where, parsed or "")
    return parsed


def _parsed_by(parse: Callable[[str], str]) -> Parser[str]:
    """Parse a text that this takes, which raises `ValueError` with a line otherwise; it is kept as it was written."""

    def parsed(value: object, where: str, problems: Problems) -> str | None:
        if not isinstance(value, str):
            return problems.wrong(where, "text", value)
        try:
            parse(value)
        except ValueError as error:
            return problems.error(where, str(error))
        return value

    return parsed


bucket: Final = _parsed_by(parse_bucket)
prefix: Final = _parsed_by(parse_prefix)
region: Final = _parsed_by(parse_region)


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """How the archive is reached."""

    access_key: str | None = key(
        key_text, None, "The name of the access key; that of the environment or the machine unless given"
    )
    secret_key: str | None = key(secret_text, None, "The secret of the access key", secret=True)
    host: str | None = key(
        endpoint, None, "The host of the archive, with its port if it needs one; Amazon unless given"
    )


@dataclass(frozen=True, slots=True)
class Server:
    """One memcached."""

    host: str
    port: int

    def shown(self) -> str:
        """Write it as in the file."""
        return join_address(self.host, self.port)


def memcached(value: object, where: str, problems: Problems) -> Server | None:
    """Parse `HOST` or `HOST:PORT`; the port is 11211 unless told."""
    if not isinstance(value, str):
        return problems.wrong(where, "text of the form HOST or HOST:PORT", value)
    address = split_address(value)
    if address is None:
        return problems.error(where, f"{value!r} must have the form HOST or HOST:PORT")
    return Server(address[0], address[1] or 11211)


@dataclass(frozen=True, slots=True)
class Amqp:
    """The broker that is told which blobs were asked for, and how."""

    host: str = "localhost"
    port: int = 5672
    tls: bool = False
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    vhost: str = "/"
    exchange: str = "stor"
    routing_key: str = "sha"
    heartbeat: int = 60

    def shown(self) -> str:
        """Write the whole URI, with what was left to defaults, and the password masked."""
        names = {"exchange": self.exchange, "routing_key": self.routing_key, "heartbeat": self.heartbeat}
        who = f"{quote(self.user, safe='')}:{MASK}"
        where = f"{join_address(self.host, self.port)}/{quote(self.vhost, safe='')}"
        return f"amqp{'s' if self.tls else ''}://{who}@{where}?{urlencode(names)}"


def amqp(value: object, where: str, problems: Problems) -> Amqp | None:
    """Parse an AMQP URI; `exchange`, `routing_key` and `heartbeat` (seconds) may be in its query."""
    if not isinstance(value, str):
        return problems.wrong(where, "an AMQP URI", value)
    if not value:
        return None  # the original, too, publishes nothing then
    parts = _split(value)
    address = parts and split_address(_place(parts))
    if parts is None or address is None:
        return problems.error(where, "must be a URI such as amqp://USER:PASSWORD@HOST:PORT/VHOST?exchange=stor")
    query = dict(parse_qsl(parts.query))
    heartbeat = query.pop("heartbeat", "60")
    if not _SECONDS.fullmatch(heartbeat) or int(heartbeat) > 65535:
        return problems.error(where, "its heartbeat must be a whole number of seconds from 0 to 65535")
    exchange, routing_key = query.pop("exchange", "stor"), query.pop("routing_key", "sha")
    vhost = unquote(parts.path[1:]) or "/"
    for part, name in (("vhost", vhost), ("exchange", exchange), ("routing_key", routing_key)):
        if len(name.encode()) > _LONGEST_NAME:
            return problems.error(where, f"its {part} must have at most {_LONGEST_NAME} bytes")
    for name in query:
        problems.warn(where, f"its parameter {name!r} is not used; only exchange, routing_key and heartbeat are")
    user, password = _user_and_password(parts)
    problems.warn_of_mask(where, password)
    tls = parts.scheme == "amqps"
    port = address[1] or (5671 if tls else 5672)
    return Amqp(address[0], port, tls, user, password, vhost, exchange, routing_key, int(heartbeat))


def _split(uri: str) -> SplitResult | None:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    well_formed = uri.partition(":")[2].startswith("//") and uri.isprintable() and " " not in uri
    return parts if well_formed and parts.scheme in ("amqp", "amqps") else None


def _place(parts: SplitResult) -> str:
    place = parts.netloc.rpartition("@")[2]
    return f"localhost{place}" if place == "" or place.startswith(":") else place


def _user_and_password(parts: SplitResult) -> tuple[str, str]:
    user, colon, password = parts.netloc.rpartition("@")[0].partition(":")
    return unquote(user) or "guest", unquote(password) if colon else "guest"


@dataclass(frozen=True, slots=True)
class LogOutput:
    """One place that messages go to: its kind (`Screen`, `File`, ...) and its options."""

    kind: str
    options: tuple[tuple[str, Option], ...] = ()

    def shown(self) -> list[object]:
        """Write it as in the file."""
        return [self.kind, *(part for option in self.options for part in option)]


def log_output(value: object, where: str, problems: Problems) -> LogOutput | None:
    """Parse `[KIND, OPTION, VALUE, OPTION, VALUE, ...]`."""
    if not isinstance(value, list) or not value:
        return problems.wrong(where, 'a list such as ["Screen", "min_level", "info"]', value)
    kind, names, values = value[0], value[1::2], value[2::2]
    if not all(isinstance(name, str) and name for name in (kind, *names)) or len(names) != len(values):
        return problems.error(where, "must be a kind, then names and values in turn")
    if not all(_is_option(item) for item in values):
        return problems.error(
            where, "the values of its options must be text, numbers, true or false, or objects of them"
        )
    try:
        return LogOutput(kind, tuple([(name, _placed(name, item)) for name, item in zip(names, values, strict=True)]))
    except OSError as error:
        return problems.error(where, f"the current directory: {error.strerror}; write the whole path, from / on")


def _placed(name: str, value: Option) -> Option:
    """Take a path from where the command was given: the server's processes are elsewhere."""
    relative = name in _PATHS and isinstance(value, str) and value and not value.startswith("/")
    return f"{os.getcwd()}/{value}" if relative else value


def _is_option(value: object) -> bool:
    return all(map(_is_scalar, value.values())) if isinstance(value, dict) else _is_scalar(value)


def _is_scalar(value: object) -> bool:
    return math.isfinite(value) if isinstance(value, float) else value is None or isinstance(value, str | int)
