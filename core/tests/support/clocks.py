"""A clock for measurements in tests, which no load of the machine changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class Clock:
    """A clock that only those who take time advance."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds

    def taking(self, seconds: float) -> Callable[[], None]:
        """Return a call that takes so many seconds."""

        def call() -> None:
            self.seconds += seconds

        return call
