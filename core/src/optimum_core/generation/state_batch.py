"""Continuous batching by a backend's own states: between two calls, rows of several generations are joined in one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimum_core.errors import InputError, SessionError, UnavailableError
from optimum_core.generation.decoder_session import Decoder, Generation
from optimum_core.generation.sampling import Choose, chooser, needs_history
from optimum_core.generation.settings import Settings
from optimum_core.types import ContinuousLimits, JoiningSession, Progress, Sampling

Array = np.ndarray[Any, Any]
#: Bytes of a number in keys and values.
_BYTES = 4


@dataclass(kw_only=True, slots=True, eq=False)
class _Row:
    """One text.

    Attributes:
        ids: of its prompt, and of what has been written.
        read: ids of the prompt that the model has read.
        left: tokens that may come.
        has_history: the choice of a token depends on those before it.
        generation: reads the prompt, until the row is joined to the others.
    """

    number: int
    ids: list[int]
    choose: Choose
    eos: frozenset[int]
    left: int
    has_history: bool
    read: int = 0
    generation: Generation | None = None
    ended: bool = False

    @property
    def needed(self) -> int:
        """The positions that it takes at its end."""
        return len(self.ids) + self.left

    def take(self, scores: Array) -> Progress:
        """Choose the next token by its scores [1, vocabulary]."""
        before = self.ids if self.has_history else self.ids[-1:]  # many take longer to convert than to choose
        token = int(self.choose(np.array([before]), scores)[0])
        self.ids.append(token)
        self.left -= 1
        self.ended = self.ended or token in self.eos or self.left == 0
        return Progress(tokens=(token,), ended=self.ended)

    def release(self) -> None:
        """Free the state of its own."""
        if self.generation is not None:
            self.generation.close()
            self.generation = None


class StateBatch:
    """A `ContinuousBatch` on the states of a decoder session that joins them.

    Each prompt is read by itself, in pieces; then its row is joined to the others, aligned at their last token, and
    each call gives all rows their next one. Rows that have ended leave when others join, as soon as they are half of
    all, or when the model has no further positions for them.

    Args:
        decoder: of a `JoiningSession`.

    Raises:
        UnavailableError: it is none, or its model keeps states of a fixed size or reads no mask.
    """

    def __init__(self, decoder: Decoder, limits: ContinuousLimits) -> None:
        session: Any = decoder.session
        is_joining = isinstance(session, JoiningSession) and not decoder.reads_no_mask
        if not is_joining or any(layer.kind != "key-value" or layer.has_fixed_states for layer in session.state.layers):
            why = f"backend {session.backend!r} does not join this model's states"
            raise UnavailableError("continuous batching", why, "write one text after another, or several in turns")
        self._decoder, self._join, self._limits = decoder, session.join, limits
        self._position: int = _BYTES * session.state.values_of_a_position
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []
        self._generation: Generation | None = None
        self._count = 0
        self._is_closed = False

    @property
    def tool(self) -> str:
        """The backend whose states are joined."""
        return f"states of backend {self._decoder.session.backend!r}"

    @property
    def positions(self) -> int:
        """The number of positions for which there is memory."""
        return self._limits.cache // self._position

    def add(self, ids: Sequence[int], sampling: Sampling) -> int:
        """Begin a generation, and return its number.

        Raises:
            InputError: there is no token, or more than memory or model have positions for.
            SessionError: the batch is closed.
        """
        self._require_open()
        needed = len(ids) + sampling.max_new_tokens
        if not ids or needed > self.positions:
            why = f"{len(ids)} tokens and {sampling.max_new_tokens} new ones, and there are {self.positions} positions"
            raise InputError(self.tool, why, "pass at least one token, and ask for fewer new ones")
        self._decoder.check_room(len(ids), sampling.max_new_tokens)
        self._count += 1
        self._waiting.append(_row(self._count, ids, sampling))
        return self._count

    def step(self) -> dict[int, Progress]:
        """Give every row its next token, and read what waits; return what is new.

        Raises:
            SessionError: the backend failed, or the batch is closed.
        """
        self._require_open()
        try:
            return self._stepped()
        except BaseException:  # rows may have tokens that the caller was not told of
            self.close()
            raise

    def _require_open(self) -> None:
        if self._is_closed:
            raise SessionError(self.tool, "the batch is closed", "begin a new one")

    def _stepped(self) -> dict[int, Progress]:
        if self._is_beyond():
            self._regroup(())
        found = self._written()
        joining = self._read(found)
        gone = sum(row.ended for row in self._rows)
        if joining or (gone and 2 * gone >= len(self._rows)):
            self._regroup(joining)
        return found

    def _is_beyond(self) -> bool:
        """Whether the model has no further position for a row that has ended, and would be written on."""
        longest, generation = self._decoder.longest, self._generation
        if longest is None or generation is None:
            return False
        return any(row.ended and generation.tokens(place) >= longest for place, row in enumerate(self._rows))

    def _written(self) -> dict[int, Progress]:
        if self._generation is None:
            return {}
        last = np.array([row.ids[-1:] for row in self._rows], np.int64)
        scores = self._generation.feed(last, None, "counts", "last")[:, -1]
        running = [(place, row) for place, row in enumerate(self._rows) if not row.ended]
        return {row.number: row.take(scores[place : place + 1]) for place, row in running}

    def _read(self, found: dict[int, Progress]) -> list[_Row]:
        """Read prompts, as many tokens as one step may; return the rows that have their first token."""
        joining: list[_Row] = []
        budget = self._limits.tokens
        while budget > 0 and self._waiting and self._has_room(joining):
            row = self._waiting[0]
            if row.generation is None:
                row.generation = self._decoder.begin(1)
            piece = np.array([row.ids[row.read : row.read + budget]], np.int64)
            scores = row.generation.feed(piece, None, "counts", "last")[:, -1]
            row.read, budget = row.read + piece.shape[1], budget - piece.shape[1]
            if row.read == len(row.ids):
                self._waiting.popleft()
                found[row.number] = row.take(scores)
                joining.append(row)
        return joining

    def _has_room(self, joining: Sequence[_Row]) -> bool:
        """Whether another row fits into memory, at the length of the longest at its end."""
        rows = [row for row in (*self._rows, *joining) if not row.ended]
        whole = (len(rows) + 1) * max(row.needed for row in (*rows, self._waiting[0]))
        return not rows or (len(rows) < self._limits.rows and whole <= self.positions)

    def _regroup(self, joining: Sequence[_Row]) -> None:
        """Join the rows that go on in one state, and free the others."""
        former = self._generation
        parts = [(row, former, place) for place, row in enumerate(self._rows) if former is not None]
        parts += [(row, row.generation, 0) for row in joining if row.generation is not None]
        going_on = [(row, generation, place) for row, generation, place in parts if not row.ended]
        self._generation = self._joined([(generation, place) for _, generation, place in going_on])
        self._rows = [row for row, _, _ in going_on]
        for generation in {id(generation): generation for _, generation, _ in parts}.values():
            if generation is not self._generation:
                generation.close()
        for row in joining:
            row.generation = None

    def _joined(self, rows: Sequence[tuple[Generation, int]]) -> Generation | None:
        """Return rows of generations as one; that of a single text as it is."""
        if not rows:
            return None
        first = rows[0][0]
        return first if len(rows) == first.rows == 1 else self._decoder.joined(rows, self._join)

    def cancel(self, number: int) -> None:
        """End a generation; its memory is freed with the next ones that leave or join."""
        for row in (*self._rows, *self._waiting):
            if row.number == number:
                row.ended = True
        for row in [row for row in self._waiting if row.ended]:
            self._waiting.remove(row)
            row.release()
        if all(row.ended for row in self._rows):
            self._regroup(())

    def close(self) -> None:
        """End all generations, and free the memory."""
        self._is_closed = True
        for row in (*self._rows, *self._waiting):
            row.ended = True
            row.release()
        self._waiting.clear()
        self._regroup(())


def _row(number: int, ids: Sequence[int], sampling: Sampling) -> _Row:
    settings = Settings(
        do_sample=sampling.do_sample,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
    )
    return _Row(
        number=number,
        ids=list(ids),
        choose=chooser(settings),
        eos=frozenset(sampling.eos),
        left=sampling.max_new_tokens,
        has_history=needs_history(settings),
    )
