"""Names and addresses of hosts, as they are written where a server is named."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_NAME: Final = re.compile(r"[^\s\x00-\x1f\x7f:/@\[\]?#*]+")
_ADDRESS: Final = re.compile(rf"(?:\[([^\[\]]+)\]|({_NAME.pattern}))(?::([0-9]{{1,5}}))?")
_IN_URL: Final = re.compile(r"[a-z0-9._:-]+", re.ASCII | re.IGNORECASE)


def is_host(text: str) -> bool:
    """Tell whether this is a host name or an address, without a port; an IPv6 address without brackets."""
    return (_NAME.fullmatch(text) is not None and _can_be_asked_for(text)) or is_ipv6(text)


def is_host_of_url(text: str) -> bool:
    """Tell whether this is a host that can stand in a URL as it is: in ASCII, and without percent signs."""
    return _IN_URL.fullmatch(text) is not None and is_host(text)


def is_ipv6(address: str) -> bool:
    """Tell whether this is an IPv6 address, without brackets."""
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return address.isascii() and address.isprintable()  # a zone such as %eth0 may be anything


def split_address(address: str) -> tuple[str, int | None] | None:
    """Take `HOST`, `HOST:PORT` or `[IPV6]:PORT` apart; None when it is none of them."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not (is_ipv6(match[1]) if match[1] else _can_be_asked_for(match[2])):
        return None
    port = int(match[3]) if match[3] else None
    return None if port is not None and not 1 <= port <= 65535 else (match[1] or match[2], port)


def join_address(name: str, port: int) -> str:
    """Put a host and a port together; an IPv6 address goes into brackets."""
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _can_be_asked_for(name: str) -> bool:
    """Tell whether the resolver takes this name: each of its labels is there and is not too long."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True
