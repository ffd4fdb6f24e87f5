"""A network that breaks in all ways, one after the other, for as long as a block lasts."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.neighbours.servers.proxy import Proxy

_KINDS: Final = ("cut", "flip", "delay", "reset", "refuse", "hang")
_SECONDS: Final = 0.05  # of trouble, and of peace


@contextmanager
def trouble(proxy: Proxy) -> Iterator[None]:
    """Break the proxy and heal it, again and again."""
    over = threading.Event()
    thread = threading.Thread(target=_go_on, args=(proxy, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        heal(proxy)


def _go_on(proxy: Proxy, over: threading.Event) -> None:
    for kind in itertools.cycle(_KINDS):
        if over.wait(_SECONDS):
            return
        _break(proxy, kind)
        over.wait(_SECONDS)
        heal(proxy)


def _break(proxy: Proxy, kind: str) -> None:
    match kind:
        case "cut":
            proxy.cut = 100_000
        case "flip":
            proxy.flip = 4000
        case "delay":
            proxy.delay = 0.01
        case "reset":
            proxy.reset()
        case "refuse":
            proxy.refuse()
        case "hang":
            proxy.hang = True


def heal(proxy: Proxy) -> None:
    """Let everything pass again."""
    proxy.cut = proxy.flip = -1
    proxy.delay, proxy.hang, proxy.garbage = 0.0, False, b""
    if proxy._listener is None:
        proxy.accept()
