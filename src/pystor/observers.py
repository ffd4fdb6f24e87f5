"""Several observers as one: each event goes to those who listen to its kind, and to nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from pystor.events import AnsweredAtOnce, Choosy, Event, Observer


class Observers:
    """All observers, as one."""

    def __init__(self, *observers: Observer) -> None:
        self._listeners: Final = _Listeners(observers)

    def join(self, observer: Observer) -> None:
        """Add an observer."""
        self._listeners.observers.append(observer)
        self._listeners.clear()

    def __call__(self, event: Event) -> None:
        """Tell all who listen to events of this kind."""
        for tell in self._listeners[event.__class__]:
            tell(event)


class _Listeners(dict[type[Event], list[Callable[[Any], None]]]):
    """Who listens to which kind of event; found out when the first of a kind happens."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        super().__init__()
        self.observers: Final = list(observers)

    def __missing__(self, kind: type[Event]) -> list[Callable[[Any], None]]:
        asked = (_listener(observer, kind) for observer in self.observers)
        self[kind] = found = [listener for listener in asked if listener is not None]
        return found


def _listener(observer: Choosy | Observer, kind: type[Event]) -> Callable[[Any], None] | None:
    if kind is AnsweredAtOnce:
        return _listener_to_all_at_once(observer)
    return observer.listener(kind) if isinstance(observer, Choosy) else observer


def _listener_to_all_at_once(observer: Choosy | Observer) -> Callable[[AnsweredAtOnce], None] | None:
    """Give what is called with the whole, or what tells the parts to who listens to those."""
    whole = observer.listener(AnsweredAtOnce) if isinstance(observer, Choosy) else None
    if whole is not None:
        return whole
    told = {kind: listener for kind in AnsweredAtOnce.kinds() if (listener := _listener(observer, kind)) is not None}

    def tell_parts(event: AnsweredAtOnce) -> None:
        for part in event.parts():
            if part.__class__ in told:
                told[part.__class__](part)

    return tell_parts if told else None
