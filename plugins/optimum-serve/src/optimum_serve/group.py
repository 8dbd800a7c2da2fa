"""Texts that are written together, by the continuous batching of a backend: they take one turn of the writer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from optimum_core.errors import SessionError

log = logging.getLogger(__name__)


class Written(Protocol):
    """A text of `AcceleratedModel.continuous_batching`."""

    pieces: list[str]
    ended: bool


class Together(Protocol):
    """The writer that `AcceleratedModel.continuous_batching` returns."""

    def step(self) -> Sequence[Any]:
        """Return the texts that have new pieces."""
        ...

    def cancel(self, text: Any) -> None:
        """End a text."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


class Member(Protocol):
    """A text of the writer, as the group sees it."""

    cancelled: bool
    begun: bool
    join: Callable[[], Written] | None

    def put(self, piece: str | BaseException | None) -> None:
        """Hand over a piece, an error, or None at the end."""
        ...


M = TypeVar("M", bound=Member)


class Group(Generic[M]):
    """The texts of one model that are written together.

    Args:
        rows: texts at once.
        step: is told the seconds of a step, once for each token.

    Attributes:
        is_broken: the backend's batch has failed; no text joins any more.
        released: texts that were to be written when it failed, and of which no piece has come: they may take turns.
    """

    def __init__(self, together: Together, rows: int, step: Callable[[float], None]) -> None:
        self._together, self._rows, self._step = together, rows, step
        self._members: dict[Any, M] = {}
        self.is_broken = False
        self.released: list[M] = []

    def __len__(self) -> int:
        return len(self._members)

    @property
    def places(self) -> int:
        """The number of texts that may join."""
        return 0 if self.is_broken else self._rows - len(self._members)

    def join(self, member: M) -> None:
        """Begin a text; an error goes to its client."""
        assert member.join is not None
        if member.cancelled:
            return
        try:
            self._members[member.join()] = member
        except SessionError as error:
            self.released.append(member)
            self._break(error)
        except Exception as error:  # noqa: BLE001 - any other error goes to the client
            member.put(error)

    def advance(self) -> bool:
        """Write one token of every text; return whether any goes on."""
        for text in [text for text, member in self._members.items() if member.cancelled]:
            self._together.cancel(text)
            del self._members[text]
        start = time.perf_counter()
        try:
            stepped = self._together.step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer's thread goes on
            self._break(error)
            return False
        seconds = time.perf_counter() - start
        for text in stepped:
            self._hand_over(text, seconds)
        return bool(self._members)

    def _hand_over(self, text: Any, seconds: float) -> None:
        member = self._members[text]
        for piece in text.pieces:
            member.put(piece)
        for _ in range(len(text.pieces) - text.ended):
            self._step(seconds)
        if text.ended:
            member.put(None)
            del self._members[text]

    def _break(self, error: Exception) -> None:
        """Tell the texts that have begun that they are lost, release the others, and free the memory."""
        log.error("continuous batching ended, and texts take turns from now on: %s", error)
        self.is_broken = True
        for member in self._members.values():
            if member.begun:
                member.put(error)
            else:
                self.released.append(member)
        self._members.clear()
        self._together.close()

    def close(self) -> None:
        """Free the memory."""
        self._together.close()
