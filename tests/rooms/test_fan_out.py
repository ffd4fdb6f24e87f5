"""Many asked at once: what comes in time is an answer, and the rest is silence."""

from __future__ import annotations

import threading

import pytest

from pystor.fan_out import ask_all
from tests.rooms.tools import no_thread_to_give


def test_who_hangs_is_silent_and_keeps_no_other_from_answering() -> None:
    over = threading.Event()
    try:
        assert ask_all(lambda name: name != "b" or over.wait(20), "abc", 0.5) == {"a": True, "c": True}
    finally:
        over.set()


def test_who_is_not_asked_for_want_of_threads_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    with no_thread_to_give():
        assert ask_all(len, ["a", "bc"], 20) == {}
    real, started = threading.Thread.start, list[str]()

    def start(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread.name)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert ask_all(len, ["a", "bc"], 20) == {"a": 1}
