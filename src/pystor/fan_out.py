"""Fan-out with a timeout: many are asked at once, and whoever hangs is not waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


def ask_all(ask: Callable[[_Asked], _Answer], whom: Iterable[_Asked], seconds: float) -> dict[_Asked, _Answer]:
    """Ask each in a thread of its own; returns the answers that came within so many seconds, by whom they are of.

    `ask` has to give what goes wrong as an answer. Who is not asked, since the system has no thread to give, is silent.
    """
    answers: dict[_Asked, _Answer] = {}

    def keep(asked: _Asked) -> None:
        answers[asked] = ask(asked)

    deadline = time.monotonic() + seconds
    begun: list[threading.Thread] = []
    for asked in whom:
        # A thread that hangs in a dead disk must not keep the process from ending: hence daemons.
        thread = threading.Thread(target=keep, args=(asked,), name="stor asks", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            break
        begun.append(thread)
    for thread in begun:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(answers)
